"""`reconcile --table` against a real log: each way in which a table can be wrong has its word."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from confluent_kafka import Producer
from integration.pipeline_runs import PipelineRun, running, wait_for
from output_trees import NOON, OutputTree, sources
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from rest_catalogs import (
    ACCESS_KEY,
    LANDING_BUCKET,
    SECRET_KEY,
    RestCatalogServer,
    start_rest_catalog,
)
from scrapes import scrape_if_served
from table_trees import begin_epoch, committed, job_for, table_of

from beam_pipeline import cli
from beam_pipeline.commands.metrics.catalogue import PROOF
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.left_out import NOTE, LeftOutNote, LeftOutRange
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.lease import hold_lease
from beam_pipeline.runtime.processes import free_port
from beam_pipeline.settings.table import TableJob, TableSettings
from beam_pipeline.tables.pyiceberg_internals import referenced_files
from beam_pipeline.times import ms_of
from beam_pipeline.tools.reconcile import table_run
from beam_pipeline.tools.reconcile.table_files import pin

FreshTopic = Callable[..., str]
LETTERS = "lake.orders__dead_letters"


@dataclass
class Proof:
    """A tree of files, a topic with their records, and what `reconcile --table` says of them."""

    kafka: KafkaConnection
    topic: str
    tree: OutputTree
    capsys: pytest.CaptureFixture[str]
    catalog: Path | None = None
    records: int = 0

    def produce(self, count: int) -> None:
        """Produce records, stamped from noon on, a second apart."""
        producer = Producer(self.kafka.for_librdkafka())
        for offset in range(self.records, self.records + count):
            timestamp = ms_of(NOON) + 1000 * offset
            producer.produce(self.topic, b"{}", partition=0, timestamp=timestamp)
        assert producer.flush(30) == 0
        self.records += count

    def rows(self, offsets: Sequence[int], **how: Any) -> Path:
        return self.tree.parquet(sources(self.topic, 0, offsets), **how)

    def letters(self, offsets: Sequence[int]) -> Path:
        return self.tree.letters(sources(self.topic, 0, offsets))

    def commit(self, name: str = "lake.orders") -> Table:
        """Commit what has landed; return a table."""
        return table_of(committed(job_for(self.tree, self.catalog)), name)

    def run(self, *flags: str) -> tuple[int, str, str]:
        """Return the exit code, what was printed, and what went to stderr."""
        words = [
            *("reconcile", f"--kafka_bootstrap_servers={self.kafka.bootstrap_servers}"),
            f"--input_topics={self.topic}",
            f"--output_dir={self.tree.output_dir}",
            f"--dead_letter_dir={self.tree.dead_letter_dir}",
        ]
        self.capsys.readouterr()
        catalog = [f"--catalog={self.catalog}"] if self.catalog else []
        code = cli.main([*words, "--table=lake.orders", *catalog, *flags])
        printed = self.capsys.readouterr()
        return code, printed.out, printed.err

    def report(self, *flags: str) -> dict[str, Any]:
        """Return the report as JSON; the exit code must agree with it."""
        code, output, _ = self.run("--json", *flags)
        report: dict[str, Any] = json.loads(output)
        assert code == (0 if report["clean"] else 1)
        return report

    def text(self, *flags: str) -> str:
        return " ".join(self.run(*flags)[1].split())


@pytest.fixture
def proof(
    kafka: KafkaConnection,
    fresh_topic: FreshTopic,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Proof:
    """A hundred records: rows of two files, and a file of dead letters; nothing is committed."""
    topic = fresh_topic(partitions=1, message_timestamp_type="CreateTime", retention_ms="-1")
    proof = Proof(kafka, topic, OutputTree(tmp_path / "tree"), capsys)
    proof.produce(100)
    begin_epoch(proof.tree, proof.tree.epoch)
    proof.rows(range(40))
    proof.rows(range(40, 80))
    proof.letters(range(80, 100))
    return proof


def ranges(report: dict[str, Any], fault: str) -> list[list[int]]:
    (partition,) = report["partitions"]
    found: list[list[int]] = partition[fault]["ranges"]
    return found


def files_of(table: Table) -> list[DataFile]:
    """The entries of the newest snapshot, those of the lowest offsets first."""
    snapshot = table.current_snapshot()
    assert snapshot is not None
    files = referenced_files(snapshot, table.io)
    return [files[path] for path in sorted(files)]


def path_of(file: DataFile) -> Path:
    return Path(file.file_path.removeprefix("file://"))


def test_each_record_in_one_of_the_two_tables_is_clean(proof: Proof) -> None:
    table = proof.commit()
    report = proof.report()
    assert (report["clean"], report["records"], report["covered"]) == (True, 100, 100)
    assert (report["parquet_files"], report["dead_letter_files"]) == (2, 1)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert report["table"]["rows"]["snapshot_id"] == snapshot.snapshot_id
    assert (report["table"]["lag"], report["table"]["foreign_snapshots"]) == (0, [])
    text = proof.text()
    assert f"Compared snapshot {snapshot.snapshot_id} of lake.orders" in text
    assert text.endswith(
        "Clean: 100 records, each in one place; 2 data files and 1 file of dead letters."
    )


def test_the_output_directory_is_not_looked_at(proof: Proof) -> None:
    proof.commit()
    for path in [*proof.tree.output_dir.rglob("dt=*/**/*.parquet")]:
        path.unlink()
    assert proof.report()["clean"]


def test_a_file_whose_entry_was_deleted_is_missing(proof: Proof) -> None:
    delete_first_file(proof.commit())
    report = proof.report()
    assert ranges(report, "missing") == [[0, 39]]
    (foreign,) = report["table"]["foreign_snapshots"]
    assert (foreign["table"], foreign["operation"]) == ("lake.orders", "overwrite")
    text = proof.text()
    assert "in neither table: 40 offsets: 0-39" in text
    assert f"foreign snapshot {foreign['snapshot_id']}, overwrite by an engine that" in text
    assert "NOT clean: 40 missing; 100 records" in text


def test_a_file_that_was_added_twice_is_doubled(proof: Proof) -> None:
    table = proof.commit()
    second = files_of(table)[1]
    table.add_files([second.file_path], check_duplicate_files=False)
    report = proof.report()
    assert (report["doubled"], ranges(report, "doubled_in_parquet")) == (40, [[40, 79]])
    (problem,) = report["file_problems"]
    assert problem == {"path": str(path_of(second)), "reason": "the manifests name it 2 times"}
    (fault,) = report["files_at_fault"]
    assert fault["path"] == str(path_of(second))
    assert [one["operation"] for one in report["table"]["foreign_snapshots"]] == ["append"]


def test_a_foreign_append_is_named(proof: Proof) -> None:
    table = proof.commit()
    table.append(pa.table({"n": pa.array([7], pa.int64())}), {"engine-name": "notebook"})
    report = proof.report()
    (problem,) = report["file_problems"]
    assert problem["reason"] == "column kafka_topic holds null"
    (foreign,) = report["table"]["foreign_snapshots"]
    assert (foreign["operation"], foreign["engine"]) == ("append", "notebook")
    text = proof.text()
    assert "append by notebook at 20" in text
    assert "NOT clean: 1 file problems" in text


def test_a_foreign_append_of_the_same_records_is_doubled(proof: Proof) -> None:
    table = proof.commit()
    table.append(table.scan("kafka_offset < 5").to_arrow())
    report = proof.report()
    assert ranges(report, "doubled_in_parquet") == [[0, 4]]
    (problem,) = report["file_problems"]
    assert problem["reason"].startswith("not a file of this pipeline: ")


def test_a_truncated_file_is_told(proof: Proof) -> None:
    table = proof.commit()
    path = path_of(files_of(table)[0])
    size = path.stat().st_size
    os.truncate(path, size - 10)
    report = proof.report()
    assert ranges(report, "missing") == [[0, 39]]
    reasons = {problem["reason"] for problem in report["file_problems"]}
    assert f"the manifest says {size} bytes, the file has {size - 10}" in reasons


def test_a_file_that_is_gone_is_told(proof: Proof) -> None:
    table = proof.commit()
    path_of(files_of(table)[0]).unlink()
    report = proof.report()
    assert ranges(report, "missing") == [[0, 39]]
    assert [problem["reason"] for problem in report["file_problems"]] == ["is gone"]


def test_a_file_with_other_rows_than_its_manifest_says_is_told(proof: Proof) -> None:
    table = proof.commit()
    first, second = files_of(table)
    path_of(first).write_bytes(path_of(second).read_bytes())
    report = proof.report()
    assert (ranges(report, "missing"), ranges(report, "doubled_in_parquet")) == (
        [[0, 39]],
        [[40, 79]],
    )
    reasons = {problem["reason"] for problem in report["file_problems"]}
    assert "the manifest says offsets 0 to 39, the rows have 40 to 79" in reasons


def test_a_file_with_fewer_rows_than_its_manifest_says_is_told(proof: Proof) -> None:
    table = proof.commit()
    other = OutputTree(proof.tree.root / "other")
    path_of(files_of(table)[0]).write_bytes(
        other.parquet(sources(proof.topic, 0, range(39))).read_bytes()
    )
    report = proof.report()
    assert ranges(report, "missing") == [[39, 39]]
    assert "the manifest says 40 rows, the file has 39" in {
        problem["reason"] for problem in report["file_problems"]
    }


def test_rows_that_another_writer_deleted_are_told(proof: Proof) -> None:
    table = proof.commit()
    first = files_of(table)[0]
    deletes = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=f"{first.file_path}-deletes.parquet",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=100,
    )
    with table.transaction() as transaction, transaction.update_snapshot().fast_append() as update:
        update.append_data_file(deletes)
    (problem, *_) = proof.report()["file_problems"]
    assert problem["path"] == f"{path_of(first)}-deletes.parquet"
    assert problem["reason"].startswith("a delete file: another writer has deleted rows")


def test_totals_of_a_snapshot_that_its_manifests_do_not_have_are_told(proof: Proof) -> None:
    table = proof.commit()
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    snapshot.summary["total-records"] = "81"
    pinned = pin(table, "lake.orders", None, "kafka_offset")
    assert [problem.reason for problem in pinned.problems] == [
        "its snapshot says total-records 81, it has 80"
    ]


def test_a_footer_that_differs_from_its_rows_is_told(proof: Proof) -> None:
    claim = sources(proof.topic, 0, [*range(100, 104), 105])
    proof.rows(range(100, 105), claim=claim)
    proof.commit()
    (problem,) = proof.report()["file_problems"]
    assert problem["reason"].startswith("footer and rows differ in 2 offsets")


def test_a_record_in_both_tables_and_one_beyond_the_end_are_told(proof: Proof) -> None:
    proof.letters([3])
    proof.rows([100])
    proof.commit()
    report = proof.report()
    assert (ranges(report, "in_both"), ranges(report, "beyond_end")) == ([[3, 3]], [[100, 100]])
    text = proof.text()
    assert "in the table and in that of dead letters: 1 offset: 3" in text
    assert "in the tables, but beyond the log's end" in text


def test_a_stray_is_called_one(proof: Proof) -> None:
    proof.produce(5)
    stray = proof.rows(range(100, 105))
    table = proof.commit()
    epoch = "20261124T140000Zx0001"
    begin_epoch(proof.tree, epoch, without=[stray])
    again = proof.rows(range(100, 105))
    table.add_files([f"file://{again}"])  # before the committer has dropped the stray
    report = proof.report()
    assert report["doubled"] == report["doubled_in_strays"] == 5
    by_stray = {file["stray"]: Path(file["path"]).name for file in report["files_at_fault"]}
    assert by_stray[True].startswith(stray.stem)
    assert by_stray[False] == again.name
    proof.commit()
    assert proof.report()["clean"]


def test_what_was_left_out_is_excluded(proof: Proof) -> None:
    proof.commit()
    proof.produce(10)
    assert (proof.report()["missing"], proof.report()["table"]["lag"]) == (10, 10)
    key = TopicPartition(proof.topic, 0)
    note = LeftOutNote().with_end([proof.topic], [LeftOutRange(key, 100, None, "--end=T")])
    (proof.tree.output_dir / NOTE).write_bytes(note.to_json())
    report = proof.report()
    assert (report["clean"], report["excluded"]) == (True, {"--end=T": 10})
    assert report["table"]["lag"] == 0


def test_a_snapshot_is_pinned_and_what_came_later_is_lag(proof: Proof) -> None:
    first = proof.commit().current_snapshot()
    letters = proof.commit(LETTERS).current_snapshot()
    assert first is not None
    assert letters is not None
    proof.produce(1)
    proof.rows([100])
    proof.commit()
    assert proof.report()["clean"]
    pinned = proof.report(f"--snapshot_id={first.snapshot_id},{letters.snapshot_id}")
    assert (pinned["clean"], pinned["missing"], pinned["table"]["lag"]) == (True, 0, 1)
    assert pinned["table"]["rows"]["snapshot_id"] == first.snapshot_id
    assert not proof.report(f"--snapshot_id={first.snapshot_id}", "--up_to=end")["clean"]


def delete_first_file(table: Table) -> None:
    with table.transaction() as transaction, transaction.update_snapshot().overwrite() as update:
        update.delete_data_file(files_of(table)[0])


def note_settings(tree: OutputTree) -> None:
    """Note the settings of the run that landed the files."""
    settings = {"max_event_skew_seconds": 10, "late_pane_seconds": 0, "window_seconds": 10}
    note = tree.output_dir / "_ledger" / "columns.json"
    note.write_text(json.dumps({"version": 1, "columns": {}, "settings": settings}))


def test_while_a_pipeline_runs_a_gap_is_missing_and_what_follows_is_lag(
    proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_run, "LATE_FILE_SECONDS", 0.0)
    monkeypatch.setattr(table_run, "COMMIT_SECONDS", 0.0)
    note_settings(proof.tree)
    table = proof.commit()
    proof.produce(20)
    assert proof.report()["missing"] == 20
    with hold_lease(proof.tree.output_dir, "--output_dir"):
        report = proof.report()
        assert (report["clean"], report["table"]["lag"], report["missing"]) == (True, 20, 0)
        delete_first_file(table)
        report = proof.report()
        assert (ranges(report, "missing"), report["table"]["lag"]) == ([[0, 39]], 20)


def test_a_gap_that_the_next_commit_fills_is_not_missing(
    proof: Proof, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_settings(proof.tree)
    first = min(proof.tree.output_dir.rglob("dt=*/**/*.parquet"))
    hidden = first.rename(tmp_path / "hidden")
    proof.commit()
    assert not proof.report("--up_to=end")["clean"]

    def land_and_commit(seconds: float) -> None:
        hidden.rename(first)
        proof.commit()

    monkeypatch.setattr(time, "sleep", land_and_commit)
    assert proof.report("--up_to=landed")["clean"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RestCatalogServer]:
    try:
        server = start_rest_catalog(tmp_path / "seaweedfs")
    except EnvironmentFailure as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
    yield server
    server.process.terminate()


def test_objects_are_read_through_a_rest_catalog(
    proof: Proof, server: RestCatalogServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    store = pafs.S3FileSystem(
        endpoint_override=server.s3_endpoint.partition("://")[2],
        scheme="http",
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        region="us-east-1",
    )
    root = proof.tree.root
    landed = [*root.rglob("dt=*/**/*.parquet"), *root.rglob("dt=*/**/*.jsonl")]
    for path in landed:
        with store.open_output_stream(f"{LANDING_BUCKET}/{path.relative_to(root)}") as output:
            output.write(path.read_bytes())
    config = tmp_path / "store.yaml"
    config.write_text(f"endpoint: {server.s3_endpoint}\nregion: us-east-1\npath_style: true\n")
    proof.catalog = server.write_properties(tmp_path / "catalog.yaml")
    job = TableJob(
        TableSettings("lake.orders", str(proof.catalog), 60.0),
        f"s3://{LANDING_BUCKET}/output",
        f"s3://{LANDING_BUCKET}/dead",
        storage_config=str(config),
    )
    table = table_of(committed(job))
    report = proof.report()
    assert (report["clean"], report["records"], report["covered"]) == (True, 100, 100)
    first, second = (file.file_path for file in files_of(table))
    store.delete_file(first.removeprefix("s3://"))
    table.add_files([second], check_duplicate_files=False)
    report = proof.report()
    assert (ranges(report, "missing"), ranges(report, "doubled_in_parquet")) == (
        [[0, 39]],
        [[40, 79]],
    )
    assert {(problem["path"], problem["reason"]) for problem in report["file_problems"]} == {
        (first, "is gone"),
        (second, "the manifests name it 2 times"),
    }


def test_a_watch_reads_each_time_the_newest_snapshots(proof: Proof, tmp_path: Path) -> None:
    proof.commit()
    port = free_port()
    words = [
        *("reconcile", "--watch=0.5", f"--metrics_port={port}", "--table=lake.orders"),
        f"--kafka_bootstrap_servers={proof.kafka.bootstrap_servers}",
        f"--input_topics={proof.topic}",
        f"--output_dir={proof.tree.output_dir}",
    ]

    def rows() -> float | None:
        return scrape_if_served(port, PROOF).get(("reconcile_rows", proof.topic))

    with running(PipelineRun(tmp_path / "watch"), words, signal.SIGINT) as process:
        wait_for(lambda: rows() == 80, "the first proof")
        proof.produce(10)
        proof.rows(range(100, 110))
        proof.commit()
        wait_for(lambda: rows() == 90, "another proof")
    assert process.returncode == 0


def refused(proof: Proof, *flags: str) -> tuple[int, str]:
    """The exit code and the one line of a command that is refused."""
    code, output, error = proof.run(*flags)
    assert (output, error.count("\n")) == ("", 1), output + error
    return code, error.removeprefix("beam-pipeline: ").rstrip()


def test_mistakes_are_one_line(proof: Proof, tmp_path: Path) -> None:
    code, line = refused(proof)
    assert (code, line.startswith("--table=lake.orders: there is no catalog /")) == (2, True)
    proof.commit()
    assert refused(proof, "--table=lake.other") == (
        2,
        "--table=lake.other: the catalog has no such table with files; look at --table, --catalog "
        "and --output_dir",
    )
    code, line = refused(proof, "--snapshot_id=7")
    assert (code, line.startswith("--snapshot_id=7: lake.orders does not keep such")) == (2, True)
    assert refused(proof, "--table=orders")[0] == 2
    assert refused(proof, "--dead_letter_topic") == (
        2,
        "--dead_letter_topic compares the files of --dead_letter_dir: leave --table away",
    )
    assert refused(proof, f"--catalog={tmp_path}/none.yaml")[0] == 2
    away = tmp_path / "away.yaml"
    away.write_text(f"type: rest\nuri: http://127.0.0.1:{free_port()}\ntoken: a-secret-token\n")
    code, line = refused(proof, f"--catalog={away}")
    assert (code, line.startswith("the catalog: ConnectionError: ")) == (1, True)
    assert "a-secret-token" not in line
    (proof.tree.output_dir / "_table" / "catalog.db").write_bytes(b"no database, " * 500)
    code, line = refused(proof)
    assert (code, "file is not a database" in line) == (1, True)


def test_without_the_extra_one_line_names_the_remedy(
    proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, line = refused(proof)
    assert code == 2
    assert line.startswith(
        "--table=lake.orders needs the package pyiceberg, which is not installed"
    )


def test_the_table_of_a_configuration_is_that_of_run(proof: Proof, tmp_path: Path) -> None:
    proof.commit()
    config = tmp_path / "run.yaml"
    config.write_text("table: lake.orders\n")
    proof.capsys.readouterr()
    code = cli.main(
        [
            *("reconcile", f"--config={config}", "--json", f"--input_topics={proof.topic}"),
            f"--kafka_bootstrap_servers={proof.kafka.bootstrap_servers}",
            f"--output_dir={proof.tree.output_dir}",
            f"--dead_letter_dir={proof.tree.dead_letter_dir}",
        ]
    )
    assert (code, "table" in json.loads(proof.capsys.readouterr().out)) == (0, False)
