"""`beam_pipeline.testing`: what users run their transforms with in unit tests."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sample_records import NOON_MS, commerce_contract, commerce_event, contract_of, kafka_record

from beam_pipeline.config import ValidationRules
from beam_pipeline.errors import UsageError
from beam_pipeline.records import ErrorCode
from beam_pipeline.testing import TIMESTAMP_MS, TOPIC, run_events, run_transform

ORDERS = contract_of(
    {
        "type": "object",
        "properties": {
            "shop": {"type": "string", "x-normalize": ["trim", "upper"]},
            "amount": {"type": "number", "x-decimal": {"precision": 9, "scale": 2}},
        },
        "required": ["shop"],
        "x-enrich": [
            {"add": "region", "lookup": {"table": "shops.csv", "key": "shop", "value": "region"}}
        ],
    }
)


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    (tmp_path / "shops.csv").write_text("shop,region\nA1,north\n")
    return tmp_path


class AddTax:
    """A transform with a `setup`, which refuses amounts below zero."""

    def setup(self) -> None:
        self.rate = Decimal("0.19")

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        amounts = batch.column("amount").to_pylist()
        if any(amount < 0 for amount in amounts):
            raise ValueError("less than zero")
        taxes = pa.array([amount * self.rate for amount in amounts], pa.decimal128(18, 4))
        return batch.append_column("tax", taxes)


def drop_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.slice(1)


def test_events_go_through_all_steps(tables: Path) -> None:
    events = [
        {"shop": " a1 ", "amount": 10},
        b'{"shop": "B2", "amount": 0.5}',
        b"{",
        None,
        {"amount": 1},
        {"shop": "A1", "amount": -1},
        kafka_record({"shop": "A1", "amount": 2}, topic="orders", partition=3, offset=77),
    ]
    results = run_events(events, ORDERS, reference_dir=tables, transforms=[AddTax])
    assert [
        (row["shop"], row["region"], row["amount"], row["tax"], row["kafka_offset"])
        for row in results.rows
    ] == [
        ("A1", "north", Decimal("10.00"), Decimal("1.9000"), 0),
        ("B2", None, Decimal("0.50"), Decimal("0.0950"), 1),
        ("A1", "north", Decimal("2.00"), Decimal("0.3800"), 77),
    ]
    assert [(letter.offset, letter.stage, letter.failure.code) for letter in results.dead] == [
        (2, "validate", ErrorCode.MALFORMED_JSON),
        (3, "validate", ErrorCode.NULL_VALUE),
        (4, "validate", ErrorCode.SCHEMA_VIOLATION),
        (5, "transform_1", ErrorCode.TRANSFORM_ERROR),
    ]
    assert results.dead[0].value == b"{"
    assert results.rows[-1]["kafka_topic"] == "orders"


def test_the_table_has_the_columns_of_the_files() -> None:
    results = run_events([], commerce_contract())
    assert results.rows == []
    (row,) = run_events([commerce_event()], commerce_contract()).rows
    assert list(row) == results.table.schema.names
    assert "ingestion_delay_ms" in row
    assert not any(name.startswith("_") for name in row)
    assert (row["kafka_topic"], row["kafka_timestamp"].timestamp()) == (TOPIC, TIMESTAMP_MS / 1000)


def test_the_rules_apply() -> None:
    contract = commerce_contract()
    rules = ValidationRules(contract.event_time_field, max_event_age_seconds=60)
    late = kafka_record(commerce_event(), timestamp=NOON_MS + 61_000)
    (letter,) = run_events([late], contract, rules=rules).dead
    assert letter.failure.code is ErrorCode.TOO_OLD


def test_a_transform_over_rows() -> None:
    rows = [{"amount": Decimal(1), "kafka_offset": 41}, {"amount": Decimal(-1), "kafka_offset": 42}]
    results = run_transform(AddTax, rows)
    assert [(row["tax"], row["kafka_offset"]) for row in results.rows] == [(Decimal("0.1900"), 41)]
    assert [(letter.offset, letter.failure.message) for letter in results.dead] == [
        (42, "less than zero")
    ]


@pytest.mark.parametrize("as_batch", [False, True])
def test_a_transform_by_its_name(as_batch: bool) -> None:
    rows: Any = [{"amount_eur": Decimal(70)}, {"amount_eur": None}]
    rows = pa.RecordBatch.from_pylist(rows) if as_batch else rows
    results = run_transform("examples.transforms:AmountBand", rows)
    assert [row["amount_band"] for row in results.rows] == ["medium", None]


def test_a_schema_gives_the_types() -> None:
    schema = pa.schema([("amount", pa.decimal128(9, 2))])
    results = run_transform(AddTax, [], schema)
    assert results.table.schema.field("tax").type == pa.decimal128(18, 4)
    assert results.rows == []


def test_a_transform_that_breaks_the_protocol() -> None:
    results = run_transform(drop_rows, [{"n": 1}, {"n": 2}])
    assert results.rows == []
    assert {letter.failure.message for letter in results.dead} == {
        "drop_rows returned 0 rows for 1; raise an exception for a row that is to be a dead letter"
    }
    with pytest.raises(UsageError, match=r"^--transform=nothing:here: can't be loaded"):
        run_transform("nothing:here", [{"n": 1}])
