"""The throughput bench sees every way in which two outputs can differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.compare import (
    Coverage,
    LetterContent,
    OutputReader,
    PartitionOutput,
    conform,
    differences,
    letters_of,
)

ITEM = pa.struct([("sku", pa.string()), ("price", pa.decimal128(18, 2))])
SCHEMA = pa.schema(
    [
        ("country", pa.string()),
        ("items", pa.list_(ITEM)),
        ("kafka_partition", pa.int32()),
        ("kafka_offset", pa.int64()),
    ]
)
WINDOW_NAME = "dt=2026-11-23/hour=20/bench-20261123T202830Z-20261123T202840Z-s0-ex-p0.parquet"
WINDOW_START = 1_795_465_710

Row = dict[str, Any]
LETTER = LetterContent("MALFORMED_JSON", "e30=")


def row(offset: int, **changes: Any) -> Row:
    return {
        "country": "DE",
        "items": [{"sku": f"TEA-{offset}", "price": Decimal("1.50")}],
        "kafka_partition": 0,
        "kafka_offset": offset,
        "window_start": WINDOW_START,
        **changes,
    }


def output(rows: list[Row], letters: dict[int, list[LetterContent]]) -> PartitionOutput:
    schema = SCHEMA.append(pa.field("window_start", pa.int64()))
    return PartitionOutput(pa.Table.from_pylist(rows, schema), letters)


OURS = output([row(0), row(1), row(3), row(4)], {2: [LETTER], 5: [LETTER]})


def test_equal_outputs_have_no_differences() -> None:
    same = output([row(0), row(1), row(3), row(4)], {5: [LETTER], 2: [LETTER]})
    assert differences(OURS, same) == []


@pytest.mark.parametrize(
    ("rows", "letters", "told"),
    [
        ([row(0), row(1), row(4)], OURS.letters, "rows lost: 1 (offset 3)"),
        (
            [row(0), row(1), row(3), row(3), row(4)],
            OURS.letters,
            "rows doubled: 1 (offset 3)",
        ),
        (
            [row(0), row(1), row(2), row(3), row(4)],
            OURS.letters,
            "rows that ours has not: 1 (offset 2)",
        ),
        (
            [row(0), row(1), row(3, country="de"), row(4)],
            OURS.letters,
            "country differs first at offset 3: 'DE' in ours, 'de' in theirs",
        ),
        (
            [row(0), row(1), row(3), row(4, country=None)],
            OURS.letters,
            "country differs first at offset 4: 'DE' in ours, None in theirs",
        ),
        (
            [row(0, window_start=0), row(1), row(3), row(4)],
            OURS.letters,
            f"window_start differs first at offset 0: {WINDOW_START} in ours, 0 in theirs",
        ),
        (
            [row(0), row(1, items=[]), row(3), row(4, items=[])],
            OURS.letters,
            "items differs first at offset 1: [{'sku': 'TEA-1', 'price': Decimal('1.50')}] "
            "in ours, [] in theirs",
        ),
        (OURS.rows.to_pylist(), {2: [LETTER]}, "dead letters lost: 1 (offset 5)"),
        (
            OURS.rows.to_pylist(),
            {2: [LETTER], 5: [LETTER], 7: [LETTER]},
            "dead letters that ours has not: 1 (offset 7)",
        ),
        (
            OURS.rows.to_pylist(),
            {2: [LETTER, LETTER], 5: [LETTER]},
            "dead letters doubled: 1 (offset 2)",
        ),
        (
            OURS.rows.to_pylist(),
            {2: [LETTER], 5: [LETTER._replace(code="NOT_UTF8")]},
            "dead letters with another code: 1 (offset 5)",
        ),
        (
            OURS.rows.to_pylist(),
            {2: [LETTER], 5: [LETTER._replace(value_b64=None)]},
            "dead letters with another value_b64: 1 (offset 5)",
        ),
    ],
)
def test_a_difference_is_told(
    rows: list[Row], letters: dict[int, list[LetterContent]], told: str
) -> None:
    assert differences(OURS, output(rows, letters)) == [told]


@pytest.mark.parametrize("changed", [0, 1, 499, 500, 998])
def test_the_first_changed_row_is_found_among_many(changed: int) -> None:
    rows = [row(offset) for offset in range(1000)]
    ours = output(rows, {})
    for offset in {changed, 999}:
        rows[offset] = row(offset, country="XX")
    (told,) = differences(ours, output(rows, {}))
    assert told.startswith(f"country differs first at offset {changed}:")


def write(
    path: Path, rows: list[Row], drop: str | None = None, schema: pa.Schema | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table.drop_columns([drop]) if drop else table, path)


def write_letters(reader: OutputReader, *places: tuple[int, int]) -> None:
    letters = [
        {
            "error": {"code": "MALFORMED_JSON"},
            "value_b64": "e30=",
            "source": {"partition": partition, "offset": offset},
        }
        for partition, offset in places
    ]
    path = reader.dead_letter_dir / "letters.jsonl"
    path.write_text("".join(f"{json.dumps(letter)}\n" for letter in letters))


@pytest.fixture
def reader(tmp_path: Path) -> OutputReader:
    (tmp_path / "dead").mkdir()
    return OutputReader(SCHEMA, tmp_path / "out", tmp_path / "dead")


def test_files_are_read_in_the_order_of_offsets_whatever_their_layout(reader: OutputReader) -> None:
    by_window, by_column = reader.output_dir / WINDOW_NAME, reader.output_dir / "t/0/1.parquet"
    write(by_window, [row(3), row(0), row(7, kafka_partition=1)], drop="window_start")
    reordered = [dict(reversed(one.items())) for one in (row(1), row(4))]
    write(by_column, reordered)
    write(reader.output_dir / "_tmp/half.parquet", [row(8)])
    write(by_window.with_name("_half.parquet"), [row(9)])
    write_letters(reader, (0, 2), (0, 5), (1, 5))
    theirs = reader.read(0)
    assert differences(OURS, theirs) == []
    assert theirs.rows.column("kafka_offset").to_pylist() == [0, 1, 3, 4]


@pytest.mark.parametrize(
    ("name", "drop"), [("any.parquet", "window_start"), (WINDOW_NAME, "country")]
)
def test_a_missing_column_is_an_error(reader: OutputReader, name: str, drop: str) -> None:
    write(reader.output_dir / name, [row(0)], drop=drop)
    with pytest.raises(KeyError, match=drop):
        reader.read(0)


def test_an_output_without_files_has_lost_every_row(reader: OutputReader) -> None:
    assert differences(OURS, reader.read(0)) == [
        "rows lost: 4 (offset 0, 1, 3, …)",
        "dead letters lost: 2 (offset 2, 5)",
    ]


def test_nested_columns_are_brought_to_the_schema_by_name() -> None:
    table = pa.table(
        {
            "items": pa.array(
                [[{"price": Decimal("2.0"), "sku": "A"}], None, []],
                pa.list_(pa.struct([("price", pa.decimal128(2, 1)), ("sku", pa.string())])),
            )
        }
    )
    target = pa.field("items", pa.list_(ITEM))
    assert conform(table, target).to_pylist() == [
        [{"sku": "A", "price": Decimal("2.00")}],
        None,
        [],
    ]
    unknown = pa.table({"items": pa.nulls(2)})
    assert conform(unknown, target).to_pylist() == [None, None]


def test_another_order_of_a_dictionary_is_no_difference_another_value_is(tmp_path: Path) -> None:
    enum = pa.dictionary(pa.int32(), pa.string())
    kinds = pa.list_(pa.struct([("kind", enum)]))
    schema = pa.schema([("country", enum), ("kinds", kinds), *list(SCHEMA)[2:]])
    with_window = schema.append(pa.field("window_start", pa.int64()))

    def read(name: str, *rows: Row) -> PartitionOutput:
        write(tmp_path / name / "any.parquet", list(rows), schema=with_window)
        return OutputReader(schema, tmp_path / name, tmp_path).read(0)

    first = row(0, country="DE", kinds=[{"kind": "tv"}])
    second = row(1, country="FR", kinds=[{"kind": "mobile"}])
    ours = read("ours", first, second)
    assert differences(ours, read("theirs", second, first)) == []
    changed = {**first, "kafka_offset": 1}
    assert differences(ours, read("changed", first, changed)) == [
        "country differs first at offset 1: 'FR' in ours, 'DE' in theirs",
        "kinds differs first at offset 1: [{'kind': 'mobile'}] in ours, [{'kind': 'tv'}] in theirs",
    ]


@pytest.mark.parametrize("wrap", [lambda letter: letter, lambda letter: {"_value": letter}])
def test_letters_are_read_bare_or_wrapped(wrap: Callable[[Row], Row]) -> None:
    letter = {
        "error": {"code": "NOT_UTF8"},
        "value_b64": None,
        "source": {"partition": 3, "offset": 8},
    }
    line = json.dumps(wrap(letter)).encode()
    assert list(letters_of([line])) == [(3, 8, LetterContent("NOT_UTF8", None))]


def test_an_output_with_each_offset_once_covers_the_topic(reader: OutputReader) -> None:
    write(reader.output_dir / WINDOW_NAME, [row(1), row(0), row(0, kafka_partition=1)])
    write(reader.output_dir / "later.parquet", [row(3)])
    write(reader.output_dir / "_tmp/half.parquet", [row(3)])
    write_letters(reader, (0, 2))
    coverage = Coverage({0: 4, 1: 1, 2: 0})
    coverage.read(reader.output_dir, reader.dead_letter_dir)
    assert coverage.faults() == []
    assert coverage.letters == 1


def test_a_record_that_is_lost_doubled_or_made_up_is_told(reader: OutputReader) -> None:
    write(reader.output_dir / WINDOW_NAME, [row(0), row(0), row(1), row(9)])
    write(reader.output_dir / "other.parquet", [row(7, kafka_partition=3)])
    write_letters(reader, (0, 1), (0, 3))
    coverage = Coverage({0: 5, 1: 1})
    coverage.read(reader.output_dir, reader.dead_letter_dir)
    assert coverage.faults() == [
        "partition 0: nowhere 2 (offset 2, 4), in more than one place 2 (offset 0, 1), "
        "not in the topic 1 (offset 9)",
        "partition 1: nowhere 1 (offset 0)",
        "partition 3: not in the topic 1 (offset 7)",
    ]
