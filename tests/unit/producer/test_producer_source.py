"""Synthetic records, records from lines, and when each is due."""

from __future__ import annotations

import io
import itertools
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.errors import UsageError
from beam_pipeline.producer.breakage import BREAKAGES
from beam_pipeline.producer.pacing import Schedule
from beam_pipeline.producer.source import INPUT, LATE, VALID, SourceRecord, from_lines, synthetic
from beam_pipeline.producer.status import ProduceStatus, report_to_file
from beam_pipeline.resources import event_schema_path
from beam_pipeline.schemas import load_contract

NOW_MS = 1_795_000_000_000
CONTRACT = load_contract(event_schema_path())
NAMES = {breakage.name for breakage in BREAKAGES}


def ticking_clock() -> Callable[[], int]:
    times = itertools.count(NOW_MS, 20)
    return lambda: next(times)


def take(
    count: int, seed: int = 7, invalid_ratio: float = 0.0, late_ratio: float = 0.0
) -> list[SourceRecord]:
    records = synthetic(
        seed=seed,
        contract=CONTRACT,
        invalid_ratio=invalid_ratio,
        late_ratio=late_ratio,
        late_seconds=20.0,
        clock_ms=ticking_clock(),
    )
    return list(itertools.islice(records, count))


def values_of(data: bytes, key_field: str | None = None) -> list[bytes | None]:
    return [record.value for record in from_lines(io.BytesIO(data), key_field)]


def test_the_same_seed_and_clock_give_the_same_bytes() -> None:
    first = take(500, seed=7, invalid_ratio=0.2, late_ratio=0.1)
    assert first == take(500, seed=7, invalid_ratio=0.2, late_ratio=0.1)
    assert first != take(500, seed=8, invalid_ratio=0.2, late_ratio=0.1)


def test_shares_are_kept() -> None:
    kinds = Counter(record.kind for record in take(5000, invalid_ratio=0.1, late_ratio=0.05))
    invalid = sum(kinds[name] for name in NAMES)

    assert set(kinds) == {VALID, LATE} | NAMES
    assert 400 < invalid < 600
    assert 180 < kinds[LATE] < 320
    # In turn, so that none is rare.
    assert max(kinds[name] for name in NAMES) - min(kinds[name] for name in NAMES) <= 1


@pytest.mark.parametrize(("invalid_ratio", "late_ratio"), [(0, 0), (1, 0), (0, 1), (0.5, 0.5)])
def test_shares_at_their_ends(invalid_ratio: float, late_ratio: float) -> None:
    kinds = {record.kind for record in take(200, 3, invalid_ratio, late_ratio)}
    assert bool(kinds & NAMES) == (invalid_ratio > 0)
    assert (LATE in kinds) == (late_ratio > 0)
    assert (VALID in kinds) == (invalid_ratio + late_ratio < 1)


def test_late_events_are_late_and_the_others_are_not() -> None:
    clock = itertools.count(NOW_MS, 20)
    for record in take(400, late_ratio=0.5):
        assert record.value is not None
        event_time = datetime.fromisoformat(json.loads(record.value)["event_time"])
        age_ms = next(clock) - event_time.timestamp() * 1000
        low, high = (10_000, 20_050) if record.kind == LATE else (0, 50)
        assert low <= round(age_ms) <= high


def test_the_key_is_the_visitor() -> None:
    for record in take(300):
        assert record.key is not None
        assert record.value is not None
        assert json.loads(record.value)["user_id"] == record.key.decode()


def test_a_schema_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "orders.schema.json"
    path.write_text(json.dumps({"type": "object", "required": ["order_id"]}))
    with pytest.raises(UsageError, match=r"--schema=.*orders\.schema\.json.*order_id"):
        next(synthetic(seed=1, contract=load_contract(path)))


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b""))))
def test_lines_come_back_byte_for_byte(lines: list[bytes]) -> None:
    assert values_of(b"".join(line + b"\n" for line in lines)) == lines


@given(st.binary())
def test_nothing_but_line_ends_is_lost(data: bytes) -> None:
    values = values_of(data)
    again = b"".join(value + b"\n" for value in values if value is not None)
    assert again == data if data.endswith(b"\n") or not data else again == data + b"\n"


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a\n\nb", [b"a", b"", b"b"]),
        (b"a\r\nb\r\n", [b"a\r", b"b\r"]),
        (b"\xff\xfe\x00\n", [b"\xff\xfe\x00"]),
        (b"a\x0bb\x0cc\x85d\xe2\x80\xa8e\n", [b"a\x0bb\x0cc\x85d\xe2\x80\xa8e"]),
    ],
)
def test_lines(data: bytes, values: list[bytes]) -> None:
    records = list(from_lines(io.BytesIO(data)))
    assert [record.value for record in records] == values
    assert {record.kind for record in records} <= {INPUT}
    assert {record.key for record in records} <= {None}


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"id": "u-1", "n": 1}', b"u-1"),
        ('{"id": "ü"}'.encode(), "ü".encode()),
        (b'{"id": 42}', b"42"),
        (b'{"id": false}', b"false"),
        (b'{"id": ""}', b""),
        (b'{"id": null}', None),
        (b'{"n": {"id": 1}}', None),
        (b'["id"]', None),
        (b"3", None),
        (b"{", None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_a_key_comes_from_the_named_field(line: bytes, key: bytes | None) -> None:
    (record,) = from_lines(io.BytesIO(line + b"\n"), "id")
    assert record == (key, line, INPUT)


def test_the_schedule_is_even_and_does_not_drift() -> None:
    schedule = Schedule(5.0, max_events=None, max_seconds=60.0)
    due = [schedule.due(index) for index in range(301)]
    assert due[1] == 0.2
    assert due[300] == 60.0
    assert not schedule.ends_before(299, due[299])
    assert schedule.ends_before(300, due[299])


def test_the_schedule_ends() -> None:
    assert not Schedule(0, None, None).ends_before(10**9, 10**9)
    assert Schedule(0, 10, None).ends_before(10, 0.0)
    assert not Schedule(0, 10, None).ends_before(9, 10**9)
    assert Schedule(0, None, 5.0).ends_before(0, 5.0)
    assert Schedule(0, None, 5.0).due(10**6) == 0


def test_a_schedule_that_fell_behind_catches_up_a_little_and_ends() -> None:
    schedule = Schedule(1000.0, None, 5.0)
    assert not schedule.ends_before(4999, 5.01)
    assert schedule.ends_before(5000, 5.01)
    assert schedule.ends_before(2000, 5.5)


def test_the_status_file_says_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    report = report_to_file(path)
    assert json.loads(path.read_bytes()) == {
        "produced": 0,
        "acked": 0,
        "invalid": {},
        "late": 0,
        "done": False,
    }

    status = ProduceStatus()
    for kind in (VALID, INPUT, LATE, "bad_uuid", "bad_uuid", "tombstone"):
        status.count_produced(kind)
    status.acked, status.done = 5, True
    report(status)
    assert json.loads(path.read_bytes()) == {
        "produced": 6,
        "acked": 5,
        "invalid": {"bad_uuid": 2, "tombstone": 1},
        "late": 1,
        "done": True,
    }
    assert list(tmp_path.iterdir()) == [path]


def test_a_status_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--status_file=.*missing/status\.json"):
        report_to_file(tmp_path / "missing" / "status.json")
