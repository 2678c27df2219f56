"""A user's transform is held to its protocol, and what it raises becomes dead letters."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sample_records import commerce_contract, commerce_event, kafka_record

from beam_pipeline.cli import main
from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.resources import reference_dir
from beam_pipeline.transforms import Enrich, user_transforms
from beam_pipeline.transforms.batches import Refusal, apply_or_split
from beam_pipeline.transforms.enrich import EnrichBatch, additions_of
from beam_pipeline.transforms.user import UserFunction
from beam_pipeline.transforms.validate import RecordValidator

CONTRACT = commerce_contract()
SCHEMA = Enrich(CONTRACT, reference_dir()).output_schema(CONTRACT.batch_schema)


def batch_of(*events: dict[str, Any]) -> pa.RecordBatch:
    validator = RecordValidator(CONTRACT, ValidationRules(CONTRACT.event_time_field))
    records = [kafka_record(event, offset=offset) for offset, event in enumerate(events)]
    (batch,), dead = validator.validate(batch_of_records(records))
    assert dead == []
    return EnrichBatch(additions_of(CONTRACT, reference_dir()))(batch)


def order(amount: float, agent: str = "Mozilla/5.0") -> dict[str, Any]:
    purchase = {**commerce_event()["purchase"], "amount": amount, "currency": "EUR"}
    return commerce_event(purchase=purchase, user_agent=agent)


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    """A module of the user's, to be filled by the test."""
    made = types.ModuleType("users_module")
    sys.modules["users_module"] = made
    yield made
    del sys.modules["users_module"]


def test_the_examples_in_order() -> None:
    names = ("examples.transforms:AmountBand", "examples.transforms:refuse_bots")
    first, second = user_transforms(names, SCHEMA, CONTRACT.ref)
    schema = second.output_schema(first.output_schema(SCHEMA))
    assert schema.field("amount_band").type == pa.string()
    names_out = schema.names
    assert names_out.index("amount_band") == names_out.index("kafka_topic") - 1
    batch = batch_of(order(5), order(70, "Googlebot/2.1"), order(900))
    banded = UserFunction(names[0])(batch)
    assert banded.column("amount_band").to_pylist() == ["small", "medium", "large"]
    assert banded.select(batch.schema.names) == batch
    results = list(apply_or_split(banded, UserFunction(names[1])))
    (refusal,) = [result for result in results if isinstance(result, Refusal)]
    passed = [result for result in results if not isinstance(result, Refusal)]
    rows = [row for batch in passed for row in batch.to_pylist()]
    assert [row["kafka_offset"] for row in rows] == [0, 2]
    assert refusal.row == 1
    assert str(refusal.error) == "a crawler, by its User-Agent"


def test_the_transform_sees_the_columns_of_the_files_alone(module: types.ModuleType) -> None:
    seen: list[list[str]] = []

    def look(batch: pa.RecordBatch) -> pa.RecordBatch:
        seen.append(batch.schema.names)
        return batch

    module.look = look  # type: ignore[attr-defined]
    (transform,) = user_transforms(["users_module:look"], SCHEMA, CONTRACT.ref)
    assert transform.output_schema(SCHEMA) == SCHEMA
    assert all(not name.startswith("_") for names in seen for name in names)


def test_it_is_set_up_once_and_travels_by_name(module: types.ModuleType) -> None:
    class Unpicklable:
        made = 0

        def setup(self) -> None:
            type(self).made += 1
            self.lambdas = [lambda: None]

        def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
            return batch

    module.Unpicklable = Unpicklable  # type: ignore[attr-defined]
    function = UserFunction("users_module:Unpicklable")
    batch = batch_of(commerce_event())
    assert function(batch) == function(batch) == batch
    assert Unpicklable.made == 1
    assert pickle.loads(pickle.dumps(function))(batch) == batch
    assert Unpicklable.made == 2


def drop_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.slice(1)


def reverse_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.take(pa.array(range(batch.num_rows - 1, -1, -1), pa.int64()))


def other_offsets(batch: pa.RecordBatch) -> pa.RecordBatch:
    position = batch.schema.get_field_index("kafka_offset")
    more = pc.add(batch.column("kafka_offset"), pa.scalar(1, pa.int64()))
    return batch.set_column(position, "kafka_offset", more)


def without_topic(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.drop_columns(["kafka_topic"])


def as_rows(batch: pa.RecordBatch) -> Any:
    return batch.to_pylist()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (drop_rows, "returned 1 rows for 2"),
        (reverse_rows, "changed the column 'kafka_offset'"),
        (other_offsets, "changed the column 'kafka_offset'"),
        (without_topic, "changed the column 'kafka_topic'"),
        (as_rows, "returned a list, not a pyarrow.RecordBatch"),
    ],
)
def test_rows_and_their_origin_must_stay(
    module: types.ModuleType, function: Any, reason: str
) -> None:
    module.function = function  # type: ignore[attr-defined]
    with pytest.raises((TypeError, ValueError), match=reason):
        UserFunction("users_module:function")(batch_of(order(1), order(2)))


def fails(batch: pa.RecordBatch) -> pa.RecordBatch:
    raise KeyError("no such\ncolumn")


def doubles(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.append_column("event_id", batch.column("event_id"))


@pytest.mark.parametrize(
    ("found", "name", "reason"),
    [
        (fails, "found", "fails on a batch of no rows (KeyError: 'no such\\ncolumn')"),
        (
            doubles,
            "found",
            "fails on a batch of no rows (ValueError: users_module:found returned two",
        ),
        (without_topic, "found", "fails on a batch of no rows (ValueError: users_module:found"),
        (5, "found", "is a int; it must be a function or a class"),
        (type("NeedsMore", (), {"__init__": lambda self, more: None}), "found", "can't be loaded"),
        (fails, "other", "can't be loaded (AttributeError: module 'users_module' has no"),
    ],
)
def test_what_breaks_the_protocol_is_one_line(
    module: types.ModuleType, found: Any, name: str, reason: str
) -> None:
    module.found = found  # type: ignore[attr-defined]
    with pytest.raises(UsageError) as refused:
        user_transforms([f"users_module:{name}"], SCHEMA, CONTRACT.ref)
    assert str(refused.value).startswith(f"--transform=users_module:{name}: {reason}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "module", "module:", ":Name", "a b:C", "a:b.c", "a:b()"])
def test_another_form_is_refused_before_anything_runs(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", "--kafka_bootstrap_servers=h:1", "--input_topics=t", f"--transform={text}"]
    assert main(words) == 2
    assert f"--transform={text}: must be package.module:Name" in capsys.readouterr().err
