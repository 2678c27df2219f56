"""The metrics of a run, read over HTTP by Prometheus' own parser."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
import scrapes
from output_trees import OutputTree, dead_letter, sources
from scrapes import LOOPBACK, Values

from beam_pipeline.commands.metrics import exporter, server
from beam_pipeline.commands.metrics.catalogue import RUN, metrics_reference
from beam_pipeline.commands.metrics.exporter import RunMetrics
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import Ledger
from beam_pipeline.files.watermark_note import PartitionNote, TopicNote, WatermarkNote
from beam_pipeline.resources import project_root
from beam_pipeline.runtime.landed_totals import LandedTotals
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.runtime.table_committer import TableStatus
from beam_pipeline.settings.config import MetricsSettings
from beam_pipeline.settings.table import TableProgress


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[RunMetrics]:
    settings = MetricsSettings(LOOPBACK, 0)
    with RunMetrics(settings, {"output": tmp_path, "dead_letters": tmp_path / "none"}) as served:
        yield served


def fetch(metrics: RunMetrics, path: str) -> tuple[int, str]:
    return scrapes.fetch(metrics.port, path)


def scrape(metrics: RunMetrics) -> Values:
    return scrapes.scrape(metrics.port, RUN)


def a_run(now_s: float) -> RunStatus:
    landed_s = round(1000 * (now_s - 60))
    partitions = {
        0: PartitionNote(90, 100, landed_s),
        1: PartitionNote(7, 7, landed_s),
        2: PartitionNote(0, None, None, 4),
    }
    return RunStatus(
        state="running",
        counters=Counter({"read": 97, "valid": 80, "late": 3, "dead.TOO_OLD": 17}),
        restarts=2,
        watermarks=WatermarkNote(landed_s, {"orders": TopicNote(landed_s, partitions)}),
        landed=LandedTotals(Counter(rows=2), Counter(rows=80), Counter(rows=4_096), now_s),
        engine_is_up=True,
        job_is_up=True,
    )


def test_a_scrape_has_what_the_supervisor_knows(metrics: RunMetrics) -> None:
    now_s = time.time()
    metrics.update(a_run(now_s))
    values = scrape(metrics)
    assert values["landed_offset", "orders", "0"] == 90
    assert values["log_end_offset", "orders", "0"] == 100
    assert values["lag_records", "orders", "0"] == 10
    assert values["lag_seconds", "orders", "0"] >= 60
    assert values["lag_seconds", "orders", "1"] == 0
    assert ("log_end_offset", "orders", "2") not in values
    assert values["expired_unread_records", "orders", "2"] == 4
    assert values["watermark_timestamp_seconds", "orders"] == pytest.approx(now_s - 60, abs=0.01)
    assert values["records_read_total",] == 97
    assert values["dead_letters_total", "TOO_OLD"] == 17
    assert values["rows_late_total",] == 3
    assert values["landed_bytes_total", "rows"] == 4_096
    assert values["landed_files_total", "dead_letters"] == 0
    assert values["last_file_timestamp_seconds",] == pytest.approx(now_s)
    assert values["restarts_total",] == 2
    assert values["up", "broker"] == values["up", "job"] == 1
    assert values["disk_free_bytes", "output"] > 0
    assert ("disk_free_bytes", "dead_letters") not in values
    assert values["resident_memory_bytes", "supervisor"] > 1_000_000


def test_a_run_with_a_table_tells_how_far_it_is(metrics: RunMetrics) -> None:
    now_s = time.time()
    status = a_run(now_s)
    progress = TableProgress(commits=3, rows=80, letters=17, failures=2, waiting_files=4)
    status.table = TableStatus("lake.orders", progress, started_at=now_s - 100, restarts=1)
    metrics.update(status)
    values = scrape(metrics)
    assert values["table_current_timestamp_seconds",] == pytest.approx(now_s - 100)
    assert ("table_last_commit_timestamp_seconds",) not in values
    assert values["table_commits_total",] == 3
    assert values["table_records_total", "rows"] == 80
    assert values["table_records_total", "dead_letters"] == 17
    assert values["table_failed_commits_total",] == 2
    assert values["table_waiting_files",] == 4
    assert values["table_committer_restarts_total",] == 1


def test_a_table_that_is_committed_to_is_current(
    metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "UPDATE_SECONDS", 0.0)
    status = a_run(time.time())
    metrics.update(status)
    assert not [name for name, *_ in scrape(metrics) if name.startswith("table_")]
    progress = TableProgress(current_at=1_000.0, committed_at=900.0, compactions=2, merged_files=16)
    status.table = TableStatus("lake.orders", progress)
    metrics.update(status)
    values = scrape(metrics)
    assert values["table_current_timestamp_seconds",] == 1_000
    assert values["table_last_commit_timestamp_seconds",] == 900
    assert values["table_compactions_total",] == 2
    assert values["table_merged_files_total",] == 16


def test_a_run_that_has_not_begun_can_be_scraped(metrics: RunMetrics) -> None:
    values = scrape(metrics)
    assert values["records_read_total",] == 0
    assert fetch(metrics, "/healthz") == (200, "ok\n")
    assert fetch(metrics, "/readyz") == (503, "state: starting\n")


def test_a_run_is_ready_while_it_lands_records(
    metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "UPDATE_SECONDS", 0.0)
    status = a_run(time.time())
    metrics.update(status)
    assert fetch(metrics, "/readyz") == (200, "ok\n")
    status.broker_away_since = datetime.now(timezone.utc)
    metrics.update(status)
    assert fetch(metrics, "/readyz") == (503, "state: running, broker is down\n")
    assert fetch(metrics, "/healthz") == (200, "ok\n")
    assert fetch(metrics, "/")[0] == 404


def test_a_supervisor_that_stands_still_is_not_well(
    metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "STUCK_SECONDS", 0.0)
    metrics.update(a_run(time.time()))
    code, text = fetch(metrics, "/healthz")
    assert (code, text) == (503, "the command has not moved for 0 s\n")
    assert fetch(metrics, "/readyz")[0] == 503


def test_clients_that_send_or_read_nothing_hold_up_neither_the_run_nor_others(
    metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "UPDATE_SECONDS", 0.0)
    status = a_run(time.time())
    partitions = {number: PartitionNote(1, 2, 3) for number in range(20_000)}
    status.watermarks = WatermarkNote(1, {"orders": TopicNote(1, partitions)})
    metrics.update(status)
    with socket.socket() as deaf, socket.create_connection((LOOPBACK, metrics.port)) as silent:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)  # far less than the answer
        deaf.connect((LOOPBACK, metrics.port))
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert deaf.recv(1, socket.MSG_PEEK), "the answer is on its way"
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        for read in (1_000, 2_000):
            status.counters["read"] = read
            metrics.update(status)
            assert scrape(metrics)["records_read_total",] == read


def test_later_changes_of_the_status_reach_no_scrape(metrics: RunMetrics) -> None:
    status = a_run(time.time())
    metrics.update(status)
    status.counters["read"] = 1_000
    status.landed.files["rows"] = 1_000
    values = scrape(metrics)
    assert (values["records_read_total",], values["landed_files_total", "rows"]) == (97, 2)


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(EnvironmentFailure, match=f"--metrics_port={port}: can't listen on"),
            RunMetrics(MetricsSettings(LOOPBACK, port), {}),
        ):
            pass


def test_only_new_files_of_the_run_are_counted_and_each_once(tmp_path: Path) -> None:
    tree, totals = OutputTree(tmp_path), LandedTotals()

    def epoch(name: str, known: set[str]) -> Ledger:
        tree.epoch = name
        totals.begin(name, known)
        return Ledger(tree.output_dir, tree.dead_letter_dir, on_counted=totals.note)

    tree.parquet(sources("orders", 0, range(3)))
    first = epoch("20261124T133350Zx0001", set())
    path = tree.parquet(sources("orders", 0, range(3, 8)))
    first.refresh()
    assert (totals.files, totals.records) == (Counter(rows=1), Counter(rows=5))
    second = epoch("20261124T133350Zx0002", first.files)
    tree.raw_letters([dead_letter(offset=8)])
    second.refresh()
    assert totals.records == Counter(rows=5, dead_letters=1)
    assert totals.size_bytes["rows"] == path.stat().st_size
    assert totals.last_file_s is not None


def test_the_page_is_that_of_the_declarations() -> None:
    top = project_root()
    assert top is not None
    page = (top / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
    assert page == metrics_reference(), "run scripts/metrics_reference.py"
