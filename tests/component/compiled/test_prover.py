"""The validator with a compiled contract: the same rows and letters, and when it is not used."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from proven_rows import mutated_events
from sample_records import commerce_contract, commerce_event, kafka_record

from beam_pipeline.compiled import prover as provers
from beam_pipeline.compiled.kernel import Kernel, KernelLibrary
from beam_pipeline.compiled.prover import (
    DIFFERENCES,
    PROVEN,
    WATCH_EVERY,
    WATCH_TOGETHER,
    _plain,
    prover_of,
)
from beam_pipeline.config import ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.records import DeadLetter
from beam_pipeline.schemas import load_contract
from beam_pipeline.transforms.validate import (
    BatchLimits,
    RecordValidator,
    Validated,
    _ValidateRecords,
)

RULES = ValidationRules("event_time", max_event_age_seconds=600, max_event_skew_seconds=60)


@pytest.fixture(autouse=True)
def markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of crash markers; nothing is switched off before or after a test."""
    monkeypatch.setattr(provers, "marker_directory", lambda: tmp_path / "markers")
    yield tmp_path / "markers"
    provers._switched_off.clear()


def records_of(values: list[Any]) -> pa.RecordBatch:
    return batch_of_records(
        [kafka_record(value, offset=offset) for offset, value in enumerate(values)]
    )


def by_offset(batches: list[pa.RecordBatch]) -> pa.Table:
    return pa.Table.from_batches([*map(_plain, batches)]).sort_by("kafka_offset")


def in_order(letters: Iterable[DeadLetter]) -> list[DeadLetter]:
    timeless = [letter._replace(failed_at_ms=0) for letter in letters]
    return sorted(timeless, key=lambda letter: letter.offset)


@pytest.mark.parametrize(
    ("rules", "least"),
    [(RULES, 1), (ValidationRules("event_time"), 100), (ValidationRules(None), 100)],
)
def test_rows_and_letters_are_those_of_the_exact_path(
    kernel_library: KernelLibrary, rules: ValidationRules, least: int
) -> None:
    chance = random.Random(5)
    values: list[Any] = [value for _ in range(8) for value in mutated_events(chance)[1]]
    for time in ("2026-11-23T11:49:59Z", "2026-11-23T12:01:01Z", "2026-11-23T12:00:59Z"):
        values.append(json.dumps(commerce_event(event_time=time)).encode())
    records = records_of(values)
    exact = RecordValidator(commerce_contract(), rules)
    compiled = RecordValidator(commerce_contract(), replace(rules, kernel=kernel_library))
    batches, letters = exact.validate(records)
    made, made_letters = compiled.validate(records)
    assert by_offset(made).equals(by_offset(batches))
    assert in_order(made_letters) == in_order(letters)
    counts = compiled.take_proven()
    assert counts[PROVEN] >= least
    assert counts[DIFFERENCES] == 0
    assert compiled.take_proven() == {}
    compiled.close()


@pytest.mark.parametrize(
    ("path", "times", "in_time"),
    [
        ("event_time", ["2026-11-23T11:50:00Z", "2026-11-23T12:01:00Z"], True),
        ("event_time", ["2026-11-23T11:49:59.999999Z", "2026-11-23T12:01:00.000001Z"], False),
        ("event_time", ["0001-12-31T00:00:00Z", "9999-01-01T00:00:00Z"], False),
        ("meta.at", ["2026-11-23T11:50:00Z", "2026-11-23T12:01:00Z"], True),
        ("meta.at", ["2026-11-23T11:49:59Z", None, ...], False),
    ],
)
def test_the_kernel_gives_up_rows_that_are_not_in_time(
    kernel_library: KernelLibrary, tmp_path: Path, path: str, times: list[Any], in_time: bool
) -> None:
    contract = commerce_contract()
    events = [commerce_event(event_time=time) for time in times]
    if path == "meta.at":
        at = {"type": ["string", "null"], "format": "date-time"}
        meta = {"type": "object", "properties": {"at": at}}
        document = {"type": "object", "properties": {"meta": meta}}
        (tmp_path / "schema.json").write_text(json.dumps(document))
        contract = load_contract(tmp_path / "schema.json")
        events = [{} if time is ... else {"meta": {"at": time}} for time in times]
    rules = replace(RULES, event_time_field=path)
    records = records_of([json.dumps(event).encode() for event in events])
    compiled = RecordValidator(contract, replace(rules, kernel=kernel_library))
    made, made_letters = compiled.validate(records)
    batches, letters = RecordValidator(contract, rules).validate(records)
    assert compiled.take_proven() == ({PROVEN: len(times)} if in_time else {})
    assert in_order(made_letters) == in_order(letters)
    assert [*map(_plain, made)] == [*map(_plain, batches)]
    assert len(letters) == (0 if in_time else len(times))


def test_event_times_without_limits_are_checked_too(kernel_library: KernelLibrary) -> None:
    rules = ValidationRules("event_time", kernel=kernel_library)
    times = ("0001-12-31T00:00:00Z", "0002-01-01T00:00:00Z", "9998-12-31T23:59:59.999999Z")
    events = [commerce_event(event_time=time) for time in (*times, "9999-01-01T00:00:00Z")]
    validator = RecordValidator(commerce_contract(), rules)
    (batch,), letters = validator.validate(
        records_of([json.dumps(event).encode() for event in events])
    )
    assert validator.take_proven() == {PROVEN: 2}
    assert batch.column("kafka_offset").to_pylist() == [1, 2]
    assert [letter.offset for letter in letters] == [0, 3]


def test_a_validator_travels_with_its_kernel(kernel_library: KernelLibrary) -> None:
    rules = pickle.loads(pickle.dumps(replace(RULES, kernel=kernel_library)))
    validator = RecordValidator(commerce_contract(), rules)
    validator.validate(records_of([json.dumps(commerce_event()).encode()]))
    assert validator.take_proven() == {PROVEN: 1}


def test_a_watched_row_that_differs_switches_the_kernel_off(
    kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = Kernel.prove

    def wrong(self: Kernel, values: pa.Array, append_times: Any) -> Any:
        proven = whole(self, values, append_times)
        user = commerce_contract().event_schema.get_field_index("user_id")
        columns = [*proven.columns]
        columns[user] = pa.array(["u-000000000000"] * len(proven.rows))
        return proven._replace(columns=columns)

    monkeypatch.setattr(Kernel, "prove", wrong)
    records = records_of([json.dumps(commerce_event()).encode()] * 3)
    rules = replace(RULES, kernel=kernel_library)
    validator = RecordValidator(commerce_contract(), rules)
    batches, letters = validator.validate(records)
    assert by_offset(batches).equals(
        by_offset(RecordValidator(commerce_contract(), RULES).validate(records)[0])
    )
    assert not letters
    assert validator.take_proven() == {DIFFERENCES: 3}
    (line,) = [each.message for each in caplog.records if each.levelno == logging.ERROR]
    assert "differ on one of the records orders[0] 0 to 2;" in line
    validator.validate(records)
    assert validator.take_proven() == {}
    assert prover_of(commerce_contract(), rules) is None


def test_a_kernel_that_fails_is_not_used_any_more(
    kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Kernel, "_columns_of", lambda *_: [][0])
    validator = RecordValidator(commerce_contract(), replace(RULES, kernel=kernel_library))
    records = records_of([json.dumps(commerce_event()).encode()] * 3)
    for _ in range(2):
        batches, _ = validator.validate(records)
        assert batches[0].num_rows == 3
    (line,) = [each.message for each in caplog.records if each.levelno == logging.ERROR]
    assert "failed on the records orders[0] 0 to 2;" in line


def test_one_in_a_thousand_proven_rows_is_watched(
    kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[int] = []
    whole = RecordValidator._exact

    def counted(self: RecordValidator, records: pa.RecordBatch) -> list[pa.RecordBatch]:
        watched.append(records.num_rows)
        return whole(self, records)

    monkeypatch.setattr(RecordValidator, "_exact", counted)
    validator = RecordValidator(commerce_contract(), replace(RULES, kernel=kernel_library))
    records = records_of([json.dumps(commerce_event()).encode()] * 400)
    for _ in range(81):
        validator.validate(records)
    assert watched == [WATCH_TOGETHER] * 3
    assert 2 * WATCH_TOGETHER * WATCH_EVERY <= 81 * 400 < 3 * WATCH_TOGETHER * WATCH_EVERY


def test_records_that_are_not_proven_wait_for_the_end_of_the_bundle(
    kernel_library: KernelLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[int] = []
    whole = RecordValidator.judge

    def counted(self: RecordValidator, records: pa.RecordBatch) -> Validated:
        judged.append(records.num_rows)
        return whole(self, records)

    monkeypatch.setattr(RecordValidator, "judge", counted)
    rules = replace(RULES, kernel=kernel_library)
    step = _ValidateRecords(commerce_contract(), rules, BatchLimits(10), CoveredOffsets())
    step.setup()
    values = [json.dumps(commerce_event(event_type=kind)) for kind in ("none", "page_view")]
    records = records_of([value.encode() for value in values] * 5)
    step.start_bundle()
    first = [*step.process(records)]
    assert [type(element) for element in first] == [pa.RecordBatch]
    assert judged == []
    second = [*step.process(records)]
    assert judged == [10]  # as many as the limit
    assert len(second) == 2
    assert [*step.process(records.slice(0, 3))] == []
    batch, letters = (output.value for output in step.finish_bundle())
    assert judged == [10, 2]
    assert batch.num_rows == 1
    assert len(letters.value) == 2
    step.teardown()


DIES = """
import pickle, sys
from beam_pipeline.compiled import layout, prover
from beam_pipeline.config import ValidationRules
from sample_records import commerce_contract
from pathlib import Path
library, records = pickle.load(open(sys.argv[1], "rb"))
found = prover.prover_of(
    commerce_contract(), ValidationRules(None, kernel=library), Path(sys.argv[2])
)
found._kernel._tables["child_count"] = 1  # a child beyond it is out of bounds
found.prove(records, records, lambda columns, rows: rows, lambda rows: [])
"""


def test_a_worker_that_died_in_the_kernel_is_followed_by_one_without(
    kernel_library: KernelLibrary,
    tmp_path: Path,
    markers: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    records = records_of([json.dumps(commerce_event()).encode()] * 3)
    (tmp_path / "input").write_bytes(pickle.dumps((kernel_library, records)))
    tests = Path(__file__).parents[2]
    code = subprocess.run(
        [sys.executable, "-c", DIES, str(tmp_path / "input"), str(markers)],
        check=False,
        cwd=tests.parent,
        env={**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}"},
    ).returncode
    assert code in (-signal.SIGILL, -signal.SIGTRAP)  # a trap, and no silent read
    validator = RecordValidator(commerce_contract(), replace(RULES, kernel=kernel_library))
    batches, _ = validator.validate(records)
    assert batches[0].num_rows == 3
    assert validator.take_proven() == {}
    (line,) = [each.message for each in caplog.records if each.levelno == logging.ERROR]
    assert "died in the compiled contract" in line
    assert "orders[0] 0 to 2" in line
