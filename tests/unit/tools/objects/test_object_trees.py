"""Each tool says of objects what it says of the same files in a directory."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from output_trees import OutputTree, dead_letter, sources

from beam_pipeline import cli
from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.expired import ExpiredNote, load_expired_note
from beam_pipeline.files.reading import READERS
from beam_pipeline.files.sent_notes import (
    RefusedLetter,
    SentNote,
    accept_as_sent,
    letter_paths,
    noted_files,
    read_note,
    read_notes,
    remove_stale_notes,
    write_note,
)
from beam_pipeline.files.tree import partition_keys_in, visible_files
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.outbox.publish import FileProgress, FileSender
from beam_pipeline.outbox.publisher import OutboxSettings
from beam_pipeline.records import REDRIVE_HEADER
from beam_pipeline.runtime.flink.job_record import (
    FlinkJobRecord,
    job_records,
    record_of_savepoint,
    remove_records,
)
from beam_pipeline.runtime.held_columns import held_columns
from beam_pipeline.runtime.lease import holder_of
from beam_pipeline.runtime.outbox import Outbox, Unsent
from beam_pipeline.storage import urls
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import Content, StorageAwayError, StoredObject
from beam_pipeline.tools.dlq import letters as letters_module
from beam_pipeline.tools.dlq.letters import letter_files, read_letters
from beam_pipeline.tools.dlq.outcomes import Outcomes, read_outcomes
from beam_pipeline.tools.dlq.replay import plan_only
from beam_pipeline.tools.dlq.replay_plan import ReplayChoice
from beam_pipeline.tools.dlq.stats import count_letters
from beam_pipeline.tools.inspect.inspection import inspect_tree
from beam_pipeline.tools.inspect.text import tree_json
from beam_pipeline.tools.reconcile.coverage import find_overlaps, read_coverage
from beam_pipeline.tools.reconcile.ledger_notes import read_landed_settings, read_ledger_notes
from beam_pipeline.tools.reconcile.letter_topic import _refused_in
from beam_pipeline.tools.reconcile.rewritten import samples
from beam_pipeline.tools.report.gather import gather
from beam_pipeline.tools.summary.gather import summarise


@dataclass(frozen=True)
class Bucket:
    """A tree of files, and the same files as objects."""

    tree: OutputTree

    @property
    def output(self) -> ObjectPath:
        return ObjectPath(DirectoryStorage(self.tree.output_dir))

    @property
    def dead(self) -> ObjectPath:
        return ObjectPath(DirectoryStorage(self.tree.dead_letter_dir))


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    tree = OutputTree(tmp_path)
    tree.parquet(sources("orders", 0, range(100)), last_records={"orders": {0: (99, 1000)}})
    tree.parquet(sources("orders", 0, range(90, 120)))  # ten rows are doubled
    tree.parquet(sources("clicks", 1, range(5)))
    replayed = dead_letter("orders", 0, 120, code="TOO_OLD")
    again = dead_letter(
        "orders", 0, 121, attempt=2, headers=[(REDRIVE_HEADER, replayed["dlq_id"].encode())]
    )
    tree.raw_letters([replayed, again])
    tree.letters([("clicks", 1, 5)])
    damaged = tree.parquet(sources("orders", 1, range(3)))
    damaged.write_bytes(damaged.read_bytes()[:-40])
    hidden = tree.output_dir / "_tmp" / "e1" / "part.parquet"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"PAR1")
    journal = tree.dead_letter_dir / "_replayed" / "orders.jsonl"
    journal.parent.mkdir()
    journal.write_text(json.dumps({"sent": replayed["dlq_id"]}) + "\n")
    return Bucket(tree)


@pytest.fixture
def urls_of_bucket(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """s3://lake/output and s3://lake/dead are the directories of the bucket."""
    roots = {
        "s3://lake": ObjectPath(DirectoryStorage(bucket.tree.root)),
        "s3://lake/output": bucket.output,
        "s3://lake/dead": bucket.dead,
    }
    monkeypatch.setattr(urls, "open_storage", lambda url, config: roots[url].storage)
    return bucket


def test_coverage(bucket: Bucket) -> None:
    topics = ["orders", "clicks"]
    in_files, of_files = read_coverage(sorted(bucket.tree.root.rglob("dt=*/**/*.*")), topics)
    visible: list[StoredPath] = [
        *visible_files(bucket.output, ".parquet", "--output_dir"),
        *letter_files(bucket.dead),
    ]
    in_objects, of_objects = read_coverage(visible, topics)
    assert in_objects == in_files
    assert sum(map(len, in_objects.doubled.values())) == 10
    assert [str(problem.path) for problem in of_objects] == [str(each.path) for each in of_files]
    assert len(of_objects) == 1
    overlaps = find_overlaps(visible, in_objects.doubled)
    assert [len(overlap.offsets) for overlap in overlaps] == [10, 10]


def test_samples_of_files_and_objects_that_end_at_one_offset(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    tree.parquet(sources("orders", 0, range(8)))
    tree.letters([("orders", 0, 7)])
    rows, _ = read_coverage(ObjectPath(DirectoryStorage(tree.output_dir)).listing(), ["orders"])
    letters, _ = read_coverage(letter_files(tree.dead_letter_dir), ["orders"])
    (key,) = rows.offsets
    assert [sample[key][0] for sample in samples({key: (0, 8)}, [rows, letters])] == [7, 7]


def test_inspect(bucket: Bucket) -> None:
    of_files = json.loads(tree_json(inspect_tree(bucket.tree.output_dir)))
    assert json.loads(tree_json(inspect_tree(bucket.output))) == of_files
    assert (of_files["files"], of_files["rows"], len(of_files["damaged"])) == (3, 135, 1)


def test_report(bucket: Bucket) -> None:
    tree = bucket.tree
    replayed = {"x"}
    in_files = gather(sorted(tree.root.rglob("dt=*/**/*.*"), key=str), None, print, replayed)
    objects: list[StoredPath] = [
        *(path for path in bucket.output.listing() if "_tmp" not in path.key),
        *letter_files(bucket.dead),
    ]
    in_objects = gather(sorted(objects, key=str), None, print, replayed)
    assert in_objects.topics == in_files.topics
    assert in_objects.coverage == in_files.coverage
    assert in_objects.letter_count == in_files.letter_count == 3
    assert in_objects.end_delays == pytest.approx(in_files.end_delays)
    assert in_objects.columns.keys() == in_files.columns.keys()
    assert (in_objects.unreadable, in_objects.dead_again) == (1, in_files.dead_again)
    assert in_objects.doubled == 10


def test_summary(bucket: Bucket) -> None:
    for path in bucket.tree.output_dir.rglob("*.parquet"):
        if path.stat().st_size < 200 or path.read_bytes()[-4:] != b"PAR1":
            path.unlink()  # a summary of a damaged file is refused
    of_files = summarise(bucket.tree.output_dir, bucket.tree.dead_letter_dir, "orders")
    of_objects = summarise(bucket.output, bucket.dead, "orders")
    assert [file.name for file in of_objects.files] == [file.name for file in of_files.files]
    assert [file.size_bytes for file in of_objects.files] == [
        file.size_bytes for file in of_files.files
    ]
    assert of_objects.sample == of_files.sample
    assert of_objects.rows == of_files.rows == 130
    assert of_objects.dead_by_code == of_files.dead_by_code == {"TOO_OLD": 1, "SCHEMA_VIOLATION": 1}


def test_letters_their_outcomes_and_a_plan(bucket: Bucket) -> None:
    def counts(root: StoredPath) -> tuple[object, Outcomes, object]:
        letters = letter_files(root)
        outcomes = read_outcomes(root, read_letters(letters))
        plan = plan_only(root, ReplayChoice(lambda letter: True, None, 5))
        return count_letters(read_letters(letters), {}, outcomes), outcomes, plan

    of_objects = counts(bucket.dead)
    assert of_objects == counts(bucket.tree.dead_letter_dir)
    assert len(of_objects[1].replayed) == len(of_objects[1].dead_again) == 1


def test_notes_beside_the_ledger(bucket: Bucket) -> None:
    note = ExpiredNote()
    note.unread.add_range("orders", 0, 3, 5)
    note.save(bucket.output)
    assert load_expired_note(bucket.tree.output_dir).to_json() == note.to_json()
    assert load_expired_note(bucket.output).to_json() == note.to_json()
    columns = bucket.tree.output_dir / "_ledger" / "columns.json"
    columns.write_text(json.dumps({"settings": {"late_pane_seconds": 7}}))
    assert read_landed_settings(bucket.output) == read_landed_settings(bucket.tree.output_dir)
    assert read_landed_settings(bucket.output).late_pane_seconds == 7
    assert read_ledger_notes(bucket.output) == read_ledger_notes(bucket.tree.output_dir)
    assert read_ledger_notes(bucket.output).unread


def test_columns_that_are_held(bucket: Bucket) -> None:
    for path in bucket.tree.output_dir.rglob("*.parquet"):
        if path.read_bytes()[-4:] != b"PAR1":
            path.unlink()
    held = held_columns(bucket.output)
    assert held == held_columns(bucket.tree.output_dir)
    assert held is not None
    assert "kafka_offset" in held.columns


def test_records_of_flink_jobs(bucket: Bucket) -> None:
    old = FlinkJobRecord("e1", "localhost:8081", "s3://lake/dead", 60, job_ids=("ab" * 16,))
    new = FlinkJobRecord("e2", "localhost:8081", "s3://lake/dead", 60, savepoints=("/s/1",))
    assert job_records(bucket.output) == []
    for record in (old, new):
        record.save(bucket.output)
    assert job_records(bucket.output) == job_records(bucket.tree.output_dir) == [new, old]
    assert record_of_savepoint(bucket.output, "/s/1") == new
    remove_records(bucket.output, but_epoch="e2")
    assert job_records(bucket.output) == [new]


def test_notes_on_letters_that_were_sent(bucket: Bucket) -> None:
    assert accept_as_sent(bucket.dead, private=True) == 0  # no older version wrote to a store
    first, second = letter_paths(bucket.dead)
    status = first.stat()
    refused = (RefusedLetter("5e", "orders", 0, 7, "too large"),)
    note = SentNote(status.st_size, 0, "", 1, 0, refused)
    write_note(bucket.dead, first.name, note, private=True)
    assert read_note(bucket.dead, first.name) == note
    assert note.is_of(first)
    assert not note.is_of(second)
    assert noted_files(bucket.dead) == {first.name}
    assert list(read_notes(bucket.dead)) == list(read_notes(bucket.tree.dead_letter_dir))
    assert _refused_in(bucket.dead / "_published" / first.name) == frozenset({"5e"})
    (bucket.tree.dead_letter_dir / first.key).unlink()
    remove_stale_notes(bucket.dead)
    assert noted_files(bucket.dead) == set()


def test_an_outbox_asks_for_no_note_of_what_earlier_runs_sent(
    urls_of_bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OutboxSettings(
        KafkaConnection.of_java({"bootstrap.servers": "nobody:9092"}), ".dlq", "s3://lake/dead"
    )
    assert pickle.loads(pickle.dumps(settings)).root == urls_of_bucket.dead
    for path in letter_paths(settings.root):
        note = SentNote(path.stat().st_size, 0, "", 1)
        write_note(settings.root, path.name, note, private=True)
    reads: list[str] = []
    read = DirectoryStorage.read

    def counted(storage: DirectoryStorage, key: str) -> Content:
        reads.append(key)
        return read(storage, key)

    monkeypatch.setattr(DirectoryStorage, "read", counted)
    outbox = Outbox(settings, print, tmp_path / "log")
    outbox.begin()
    assert outbox.unsent() == Unsent()
    assert reads == []
    urls_of_bucket.tree.letters([("orders", 0, 200), ("orders", 0, 201)])
    assert outbox.unsent() == Unsent(1, 2)
    assert outbox._look_seconds() == 30
    outbox._keys = 200_000
    assert outbox._look_seconds() == 1000


def test_an_outbox_looks_again_when_the_store_is_back(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = AwayStorage(bucket.tree.dead_letter_dir)
    monkeypatch.setattr(urls, "open_storage", lambda url, config: storage)
    connection = KafkaConnection.of_java({"bootstrap.servers": "nobody:9092"})
    outbox = Outbox(OutboxSettings(connection, ".dlq", "s3://lake"), print, tmp_path / "log")
    outbox.look()
    assert not outbox.is_busy
    with pytest.raises(StorageAwayError):
        outbox.unsent()  # not "nothing is unsent"


def test_the_path_of_a_file_that_a_worker_wrote(urls_of_bucket: Bucket) -> None:
    settings = OutboxSettings(
        KafkaConnection.of_java({"bootstrap.servers": "nobody:9092"}), ".dlq", "s3://lake/dead"
    )
    first, _ = letter_paths(settings.root)
    assert settings.path_of(str(first)) == first
    of_directory = OutboxSettings(
        KafkaConnection.of_java({"bootstrap.servers": "nobody:9092"}), ".dlq", "data/dead"
    )
    assert of_directory.path_of("data/dead/x.jsonl") == Path("data/dead/x.jsonl")


class AwayStorage(DirectoryStorage):
    """A storage that lists its root and the objects, and then answers no more."""

    def children(self, key: str = "") -> list[StoredObject | str]:
        if not key:
            return super().children(key)
        raise StorageAwayError(f"{self.url}: no answer")

    def read(self, key: str) -> Content:
        raise StorageAwayError(f"{self.url}: no answer")

    def read_range(self, key: str, start: int, length: int) -> bytes:
        raise StorageAwayError(f"{self.url}: no answer")


def test_a_store_that_is_away_is_no_damaged_file(bucket: Bucket) -> None:
    output = ObjectPath(AwayStorage(bucket.tree.output_dir))
    dead = ObjectPath(AwayStorage(bucket.tree.dead_letter_dir))
    with pytest.raises(StorageAwayError):
        inspect_tree(output)
    with pytest.raises(StorageAwayError):
        read_coverage(letter_files(dead), ["orders"])
    with pytest.raises(StorageAwayError):
        gather(letter_files(dead))
    with pytest.raises(StorageAwayError):
        list(read_letters(letter_files(dead)))
    with pytest.raises(StorageAwayError):
        read_ledger_notes(output)
    with pytest.raises(StorageAwayError):
        load_expired_note(output)
    with pytest.raises(StorageAwayError):
        held_columns(output)
    with pytest.raises(StorageAwayError):
        partition_keys_in(output)
    with pytest.raises(StorageAwayError):
        holder_of(output)


def test_the_commands_take_urls(
    urls_of_bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def output_of(*words: str) -> str:
        assert cli.main(list(words)) == 0
        return capsys.readouterr().out

    tree = urls_of_bucket.tree
    for words in (
        ("dlq", "stats", "--json"),
        ("dlq", "show", "--where=code=TOO_OLD", "--json"),
        ("dlq", "replay", "--dry_run"),
    ):
        of_objects = output_of(*words, "--dead_letter_dir=s3://lake/dead/")
        assert of_objects == output_of(*words, f"--dead_letter_dir={tree.dead_letter_dir}")
    of_objects = output_of("inspect", "s3://lake/dead", "--json")
    assert of_objects == output_of("inspect", str(tree.dead_letter_dir), "--json")
    letters = letter_paths(urls_of_bucket.dead)[0]
    of_object = output_of("inspect", f"s3://lake/dead/{letters.key}", "--json")
    assert of_object == output_of("inspect", str(letters), "--json")
    page = tmp_path / "page.html"
    places = ["--output_dir=s3://lake/output", "--dead_letter_dir=s3://lake/dead"]
    assert cli.main(["report", *places, f"--report_file={page}"]) == 1  # one file is damaged
    assert "s3://lake" not in page.read_text()  # this storage names its directory
    assert str(tree.output_dir) in page.read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["dlq", "stats", "--dead_letter_dir=s3:/lake"],
        ["dlq", "show", "--where=code=X", "--dead_letter_dir=S3://lake"],
        ["dlq", "replay", "--dead_letter_dir=s3://"],
        ["inspect", "hdfs://lake/output"],
        ["report", "--output_dir=s3://lake/../a"],
        ["reconcile", "--input_topics=orders", "--output_dir=s3:/lake"],
        ["flink", "status", "--output_dir=s3:/lake"],
        ["doctor", "--output_dir=s3:/lake"],
        ["run", "--input_topics=orders", "--dead_letter_dir=s3:/lake"],
        ["run", "--input_topics=orders", "--parts_dir=s3://lake/parts"],
        ["demo", "--output_dir=s3:/lake"],
        ["compact", "--output_dir=s3:/lake"],
        ["compact", "--output_dir=s3://lake/output"],
    ],
)
def test_a_place_that_does_not_serve_is_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == UsageError.exit_code
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert words[-1].removeprefix("--").split("=")[-1] in error


def test_a_store_that_is_away_is_one_line(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = AwayStorage(bucket.tree.dead_letter_dir)
    monkeypatch.setattr(urls, "open_storage", lambda url, config: storage)
    assert cli.main(["dlq", "stats", "--dead_letter_dir=s3://lake"]) == (
        EnvironmentFailure.exit_code
    )
    assert capsys.readouterr().err == (
        f"beam-pipeline: {storage.url}: no answer; check that the store runs and can be reached, "
        "then start again\n"
    )


def test_a_prefix_without_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(urls, "open_storage", lambda url, config: DirectoryStorage(tmp_path))
    assert cli.main(["dlq", "stats", "--dead_letter_dir=s3://lake"]) == UsageError.exit_code
    assert "has no objects" in capsys.readouterr().err
    (tmp_path / "_ledger").mkdir()
    (tmp_path / "_ledger" / "lease.json").write_text("{}")  # of a pipeline that has just begun
    assert cli.main(["dlq", "stats", "--dead_letter_dir=s3://lake"]) == 0
    assert capsys.readouterr().out == "No dead letters.\n"


class CountingStorage(DirectoryStorage):
    """Counts what would be a request each."""

    def stat(self, key: str) -> StoredObject:
        self.requests["HEAD"] += 1
        return super().stat(key)

    def objects(self, prefix: str = "") -> Iterator[StoredObject]:
        self.requests["LIST"] += 1
        for path in self.root.rglob("*"):
            key = str(path.relative_to(self.root))
            if path.is_file() and key.startswith(prefix):
                yield StoredObject(key, path.stat().st_size, path.stat().st_mtime)


def test_letters_of_objects_are_read_at_the_same_time_and_in_order(tmp_path: Path) -> None:
    together = threading.Barrier(READERS, timeout=20)

    class Gathering(DirectoryStorage):
        def read(self, key: str) -> Content:
            together.wait()  # breaks unless so many threads come here
            return super().read(key)

    tree = OutputTree(tmp_path)
    for offset in range(READERS):
        tree.letters([("orders", 0, offset)])
    paths = letter_files(ObjectPath(Gathering(tree.dead_letter_dir)))
    assert [letter.offset for letter in read_letters(paths)] == list(range(READERS))


def test_large_objects_of_letters_are_read_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = OutputTree(tmp_path)
    tree.letters(sources("orders", 0, range(5)))
    monkeypatch.setattr(letters_module, "_SMALL_BYTES", 10)

    class InPieces(DirectoryStorage):
        def read(self, key: str) -> Content:
            raise AssertionError(f"{key} is read whole")

    paths = letter_files(ObjectPath(InPieces(tree.dead_letter_dir)))
    assert [letter.offset for letter in read_letters(paths)] == [0, 1, 2, 3, 4]


def test_a_file_that_a_worker_sends_is_asked_for_once(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    path = tree.letters([])
    storage = CountingStorage(tree.dead_letter_dir)
    connection = KafkaConnection.of_java({"bootstrap.servers": "nobody:9092"})
    sender = FileSender(connection, ".dlq", stop_requested=lambda: False)
    key = str(path.relative_to(tree.dead_letter_dir))
    note = sender.send_file(ObjectPath(storage, key), FileProgress())
    assert (note.size, note.letters) == (0, 0)
    assert storage.requests == {"HEAD": 1}


def test_what_a_listing_told_is_not_asked_again(bucket: Bucket) -> None:
    storage = CountingStorage(bucket.tree.dead_letter_dir)
    paths = letter_files(ObjectPath(storage))
    read_coverage(paths, ["orders"])
    gather(paths)
    inspect_tree(ObjectPath(storage))
    assert storage.requests["HEAD"] == 0
