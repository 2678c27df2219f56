"""Coverage is counted from files as they are, whole, doubled, damaged or lying."""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest
from output_trees import OutputTree, dead_letter, kafka_columns, sources

from beam_pipeline.errors import UsageError
from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX
from beam_pipeline.files.tree import visible_files
from beam_pipeline.offset_sets import TopicPartition, interval
from beam_pipeline.tools.reconcile.coverage import find_overlaps, read_coverage

ORDERS_0, ORDERS_1 = TopicPartition("orders", 0), TopicPartition("orders", 1)
CLICKS_0 = TopicPartition("clicks", 0)


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def test_rows_of_several_partitions_in_any_order(tree: OutputTree) -> None:
    mixed = [("orders", 1, 7), ("orders", 0, 3), ("clicks", 0, 9), ("orders", 1, 5)]
    coverage, problems = read_coverage([tree.parquet(mixed)], ["orders", "clicks"])
    assert problems == []
    assert {k: list(v) for k, v in coverage.offsets.items()} == {
        ORDERS_0: [3],
        ORDERS_1: [5, 7],
        CLICKS_0: [9],
    }
    assert coverage.records == {ORDERS_0: 1, ORDERS_1: 2, CLICKS_0: 1}
    assert coverage.doubled == {}


def test_only_the_topics_asked_for_count(tree: OutputTree) -> None:
    path = tree.parquet([("orders", 0, 3), ("clicks", 0, 9)])
    letters = tree.letters([("clicks", 0, 10), ("orders", 0, 4)])
    coverage, problems = read_coverage([path, letters], ["orders"])
    assert problems == []
    assert {k: list(v) for k, v in coverage.offsets.items()} == {ORDERS_0: [3, 4]}
    assert coverage.records == {ORDERS_0: 2}


@pytest.mark.parametrize("row_group_size", [None, 100])
def test_offsets_doubled_within_a_file_and_between_files(
    tree: OutputTree, row_group_size: int | None
) -> None:
    one = tree.parquet(
        [*sources("orders", 0, range(1000)), ("orders", 0, 2)], row_group_size=row_group_size
    )
    other = tree.parquet(sources("orders", 0, range(990, 1010)))
    coverage, problems = read_coverage([one, other], ["orders"])
    assert problems == []
    assert coverage.offsets[ORDERS_0] == interval(0, 1010)
    assert list(coverage.doubled[ORDERS_0]) == [2, *range(990, 1000)]

    overlaps = find_overlaps([one, other], coverage.doubled)
    assert [(found.path, list(found.offsets)) for found in overlaps] == [
        (one, [2, *range(990, 1000)]),
        (other, list(range(990, 1000))),
    ]


def test_letters_doubled_far_apart_in_a_file(tree: OutputTree) -> None:
    path = tree.letters([*sources("orders", 1, range(20_000)), ("orders", 1, 0)])
    coverage, problems = read_coverage([path], ["orders"])
    assert problems == []
    assert coverage.records[ORDERS_1] == 20_001
    assert coverage.offsets[ORDERS_1] == interval(0, 20_000)
    assert list(coverage.doubled[ORDERS_1]) == [0]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_the_topic_may_have_any_type_of_text(tree: OutputTree, kind: pa.DataType) -> None:
    rows = [("orders", 0, 1), ("clicks", 0, 2)]
    columns = kafka_columns(rows)
    columns["kafka_topic"] = columns["kafka_topic"].cast(kind)
    coverage, problems = read_coverage(
        [tree.parquet(rows, table=pa.table(columns))], ["orders", "clicks"]
    )
    assert problems == []
    assert coverage.records == {ORDERS_0: 1, CLICKS_0: 1}


def test_a_file_without_rows_is_in_order(tree: OutputTree) -> None:
    coverage, problems = read_coverage([tree.parquet([]), tree.raw_letters([])], ["orders"])
    assert problems == []
    assert coverage.offsets == {}


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        ([0, 1, 2], "footer says 3 rows, the file has 4"),
        ([0, 1, 2, 4], "footer and rows differ in 2 offsets of orders/0, first 3"),
    ],
)
def test_a_footer_that_lies_is_told(tree: OutputTree, claim: list[int], reason: str) -> None:
    path = tree.parquet(sources("orders", 0, range(4)), claim=sources("orders", 0, claim))
    coverage, problems = read_coverage([path], ["orders"])
    assert [(problem.path, problem.reason) for problem in problems] == [(path, reason)]
    assert coverage.offsets[ORDERS_0] == interval(0, 4)


def test_a_file_that_was_renamed_is_told(tree: OutputTree) -> None:
    path = tree.parquet(sources("orders", 0, range(4)))
    renamed = path.rename(path.with_name(path.name.replace("-p0", "-p1")))
    _, problems = read_coverage([renamed], ["orders"])
    assert [problem.reason for problem in problems] == [
        "the file's name does not agree with its footer"
    ]


def test_a_parquet_file_that_cannot_be_counted_is_told(tree: OutputTree, tmp_path: Path) -> None:
    cut = tree.parquet(sources("orders", 0, range(4)))
    cut.write_bytes(cut.read_bytes()[:-20])
    empty = tree.parquet(sources("orders", 0, range(4)))
    empty.write_bytes(b"")
    rows = sources("orders", 0, range(2))
    foreign = tmp_path / "foreign.parquet"
    pyarrow.parquet.write_table(pa.table({"n": [1]}), foreign)
    unsigned = tmp_path / "unsigned.parquet"
    pyarrow.parquet.write_table(pa.table(kafka_columns(rows)), unsigned)
    nulls = kafka_columns(rows)
    nulls["kafka_offset"] = pa.array([1, None], pa.int64())
    negatives = kafka_columns(rows)
    negatives["kafka_offset"] = pa.array([1, -1], pa.int64())
    words = kafka_columns(rows)
    words["kafka_offset"] = pa.array(["one", "two"])
    paths = [
        cut,
        empty,
        foreign,
        unsigned,
        tree.parquet(rows, table=pa.table(nulls)),
        tree.parquet(rows, table=pa.table(negatives)),
        tree.parquet(rows, table=pa.table(words)),
        tmp_path / "gone.parquet",
    ]
    _, problems = read_coverage(paths, ["orders"])
    assert [problem.path for problem in problems] == paths
    reasons = [problem.reason for problem in problems]
    assert "magic bytes not found" in reasons[0]
    assert "0 bytes" in reasons[1]
    assert reasons[2:] == [
        "no column kafka_topic, kafka_partition, kafka_offset",
        "no 'beam_pipeline.file' in the footer",
        "column kafka_offset holds null",
        "a partition or an offset is negative",
        "column kafka_offset holds string, not whole numbers",
        "was removed while the tree was read; is a pipeline running?",
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"source":', "line 2 is not JSON"),
        (b"[]\n", "line 2 is not a JSON object"),
        (b"{}\n", "a line has no source"),
        (b'{"source":[]}\n', "a line has no source"),
        (b'{"source":{"topic":"orders","partition":0,"offset":-1}}\n', "has an invalid source"),
        (b'{"source":{"topic":"orders","partition":0,"offset":1.0}}\n', "has an invalid source"),
        (orjson.dumps(dead_letter(offset=5)), "line 2 has no end"),
    ],
)
def test_a_line_that_cannot_be_counted_is_told(tree: OutputTree, line: bytes, reason: str) -> None:
    path = tree.letters([("orders", 0, 4)])
    with path.open("ab") as file:
        file.write(line)
    _, problems = read_coverage([path], ["orders"])
    assert [problem.path for problem in problems] == [path]
    assert reason in problems[0].reason


def test_hidden_names_are_passed_over(tree: OutputTree) -> None:
    seen = tree.parquet(sources("orders", 0, [1]))
    letters = tree.letters([("orders", 0, 2)])
    for hidden in ["_tmp/e1/a.parquet", "dt=2026-11-23/_b.parquet", ".c/dt=1/d.parquet"]:
        path = tree.output_dir / hidden
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(seen.read_bytes())
    assert visible_files(tree.output_dir, PARQUET_SUFFIX, "--output_dir") == [seen]
    assert visible_files(tree.dead_letter_dir, JSON_LINES_SUFFIX, "--dead_letter_dir") == [letters]


def test_a_root_with_a_hidden_name_is_read(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path / "_hidden")
    seen = tree.parquet(sources("orders", 0, [1]))
    assert visible_files(tree.output_dir, PARQUET_SUFFIX, "--output_dir") == [seen]


def test_a_missing_directory_names_its_flag(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--output_dir=.*nowhere is not a directory"):
        visible_files(tmp_path / "nowhere", PARQUET_SUFFIX, "--output_dir")
