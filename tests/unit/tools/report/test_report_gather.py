"""What a report tells is what the files hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from output_trees import NOON, OutputTree, dead_letter, sources
from pyroaring import BitMap64

from beam_pipeline.files.names import JSON_LINES_SUFFIX, PARQUET_SUFFIX
from beam_pipeline.files.tree import visible_files
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.records import REDRIVE_HEADER
from beam_pipeline.tools.report.gather import Landed, gather


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def gathered(tree: OutputTree, topics: list[str] | None = None) -> Landed:
    return gather(
        [
            *visible_files(tree.output_dir, PARQUET_SUFFIX, ""),
            *visible_files(tree.dead_letter_dir, JSON_LINES_SUFFIX, ""),
        ],
        topics,
    )


def test_rows_and_letters(tree: OutputTree) -> None:
    tree.parquet(sources("orders", 0, range(10)))
    tree.parquet(sources("clicks", 3, range(5)))
    tree.raw_letters(
        [
            dead_letter("orders", 0, 10),
            dead_letter("orders", 0, 11, code="TOO_OLD", violations=[]),
            dead_letter("orders", 0, 12, code="TOO_OLD", violations=[]),
        ]
    )
    landed = gathered(tree)
    assert (landed.row_count, landed.letter_count) == (15, 3)
    assert landed.topics["orders"] == {"rows": 10, "files": 1, "letters": 3}
    assert landed.topics["clicks"] == {"rows": 5, "files": 1}
    assert landed.rows.names() == {"orders": 10, "clicks": 5}
    assert {code: reason.letters for code, reason in landed.reasons.items()} == {
        "SCHEMA_VIOLATION": 1,
        "TOO_OLD": 2,
    }
    assert landed.fields == {("pattern", "/currency"): 1}
    assert landed.coverage.offsets[TopicPartition("orders", 0)] == BitMap64(range(13))
    assert (landed.doubled, landed.unreadable) == (0, 0)
    assert landed.window_seconds == 10
    assert landed.first_window == NOON
    assert landed.columns["kafka_offset"].largest == 9


def test_replayed_letters_and_those_that_died_again(tree: OutputTree) -> None:
    first = [dead_letter("orders", 0, offset) for offset in range(3)]
    again = dead_letter(offset=9, headers=[(REDRIVE_HEADER, first[0]["dlq_id"].encode())])
    paths = [tree.raw_letters([*first, again])]
    landed = gather(paths, replayed={first[0]["dlq_id"], first[1]["dlq_id"]})
    assert landed.replayed_letters == 2
    assert landed.dead_again == {first[0]["dlq_id"]}


def test_only_the_topics_asked_for(tree: OutputTree) -> None:
    tree.parquet(sources("orders", 0, range(10)))
    tree.parquet(sources("clicks", 3, range(5)))
    assert gathered(tree, ["clicks"]).topics == {"clicks": {"rows": 5, "files": 1}}


def test_the_delay_is_from_window_and_kafka_to_file(tree: OutputTree) -> None:
    path = tree.parquet(sources("orders", 0, range(10)))
    os.utime(path, times=(0, NOON.timestamp() + 12.5))
    landed = gathered(tree)
    assert landed.end_delays.tolist() == [2.5]
    assert landed.start_delays.tolist() == [12.5]
    assert landed.kafka_delays.tolist() == [12.5]
    assert landed.delay_rows.tolist() == landed.kafka_delay_rows.tolist() == [10]
    assert landed.newest_record == NOON


def test_a_compacted_file_says_nothing_of_the_delay(tree: OutputTree) -> None:
    path = tree.parquet(sources("orders", 0, range(10)))
    path.rename(path.with_name(path.name.replace("x3f9a", "c3f9a")))
    landed = gathered(tree)
    assert (landed.compacted_files, landed.row_count) == (1, 10)
    assert landed.end_delays.tolist() == landed.kafka_delays.tolist() == []


def test_what_is_twice_is_seen_without_a_broker(tree: OutputTree) -> None:
    tree.parquet(sources("orders", 0, range(10)))
    tree.parquet(sources("orders", 0, range(8, 12)))
    tree.letters([("orders", 0, 11), ("orders", 0, 20), ("orders", 0, 20)])
    landed = gathered(tree)
    assert landed.coverage.doubled == {TopicPartition("orders", 0): BitMap64([8, 9, 11, 20])}
    assert landed.doubled == 4


def test_what_can_not_be_read_is_told(tree: OutputTree) -> None:
    good = tree.parquet(sources("orders", 0, range(10)))
    tree.parquet(sources("orders", 0, range(10, 20))).write_bytes(b"PAR1")
    tree.letters([("orders", 0, 20)]).write_bytes(b'{"dlq_id":')
    (tree.output_dir / "mine.parquet").write_bytes(good.read_bytes())
    landed = gathered(tree)
    assert (landed.row_count, landed.unreadable) == (10, 3)
    assert {problem.path.suffix for problem in landed.problems} == {".parquet", ".jsonl"}


def test_a_letter_without_a_timestamp_counts_when_it_failed(tree: OutputTree) -> None:
    letter = dead_letter(failed_at="2026-11-23T12:00:07.000Z")
    letter["source"]["timestamp"] = None
    tree.raw_letters([letter])
    assert dict(gathered(tree).letters.cells) == {
        (int(NOON.timestamp()) + 7, "SCHEMA_VIOLATION"): 1
    }
