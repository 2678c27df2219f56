"""What a run shows: lines in a log, a live view in a terminal, nothing unsafe in either."""

from __future__ import annotations

import io
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import pytest
from output_trees import OutputTree, sources
from rich.console import Console

from beam_pipeline.commands.live.view import RunView
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.ledger import load_ledger
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime.run_status import RunStatus

NOBODY = KafkaConnection.from_flags("127.0.0.1:9", None)


@pytest.fixture
def tree(tmp_path: Path) -> OutputTree:
    return OutputTree(tmp_path)


def view(tree: OutputTree, *, terminal: bool) -> tuple[RunView, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=terminal,
        color_system=None,
        width=80,
        height=24,
        legacy_windows=False,
    )
    return RunView("orders", console, NOBODY), out


def status_of(tree: OutputTree) -> RunStatus:
    ledger = load_ledger(tree.output_dir, tree.dead_letter_dir)
    files = [*visible_paths(tree.output_dir), *visible_paths(tree.dead_letter_dir)]
    status = RunStatus(
        state="running",
        counters=Counter({"read": 1_010, "valid": 1_000, "dead": 10, "dead.TOO_OLD": 10}),
        files=len(ledger.files),
        starts={TopicPartition("orders", 0): 0, TopicPartition("orders", 1): 5},
        covered=ledger.covered,
    )
    status.new_files.extend(sorted(files, key=lambda path: path.name))
    return status


def test_a_log_gets_a_line_now_and_then(tree: OutputTree) -> None:
    run_view, out = view(tree, terminal=False)
    with run_view:
        for _ in range(3):
            run_view.show(status_of(tree), 1_234)
    assert out.getvalue() == (
        "state running  produced 1,234  read 1,010  valid 1,000  dead 10  files 0  rate 0.0/s\n"
    )


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("running", "running, broker away since 18:05:09 UTC"),
        ("waiting for the broker", "waiting for the broker since 18:05:09 UTC"),
    ],
)
def test_the_state_says_since_when_the_broker_is_away(
    tree: OutputTree, state: str, shown: str
) -> None:
    run_view, out = view(tree, terminal=False)
    status = status_of(tree)
    status.state = state
    status.broker_away_since = datetime(2026, 11, 26, 18, 5, 9, tzinfo=timezone.utc)
    with run_view:
        run_view.show(status)
    assert out.getvalue().startswith(f"state {shown}  read ")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_notice_can_do_nothing_to_a_terminal(tree: OutputTree, terminal: bool) -> None:
    run_view, out = view(tree, terminal=terminal)
    status = status_of(tree)
    status.notices.append("starting again after: '\x1b]0;owned\x07\u202e[bold]' is no number")
    with run_view:
        run_view.show(status)
        run_view.show(status)
    assert out.getvalue().count("'\\x1b]0;owned\\x07\\u202e[bold]' is no number") == 1
    assert "\x1b]" not in out.getvalue()


def test_a_terminal_sees_how_far_the_files_are(tree: OutputTree) -> None:
    tree.parquet(sources("orders", 0, range(100)))
    tree.letters(sources("orders", 0, range(100, 103)))
    gone = tree.parquet(sources("orders", 1, range(5, 9)))
    run_view, out = view(tree, terminal=True)
    status = status_of(tree)
    gone.unlink()
    with run_view:
        run_view.show(status)
    shown = [line.split() for line in out.getvalue().replace("\x1b", "\n").splitlines()]
    # No end and no lag, since no broker answers; the window of a file that is gone is not known.
    assert any(line[:2] == ["0", "103"] and len(line) > 2 for line in shown)
    assert any(line == ["1", "9"] for line in shown)
    assert "100 rows" in out.getvalue()
    assert "TOO_OLD                  10" in out.getvalue()
    assert not status.new_files


class ClosedTerminal(io.StringIO):
    """Takes nothing, as a terminal or a pipe that was closed."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error


class ExitsOnClosedPipe(Console):
    """Does on a closed pipe what rich does, but for replacing the process's standard output."""

    def on_broken_pipe(self) -> None:
        raise SystemExit(1)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken")])
def test_a_view_that_fails_does_not_end_the_run(
    tree: OutputTree, caplog: pytest.LogCaptureFixture, terminal: bool, error: OSError
) -> None:
    file = ClosedTerminal(error)
    console = ExitsOnClosedPipe(file=file, force_terminal=terminal, width=80, height=24)
    run_view = RunView("orders", console, NOBODY)
    status = status_of(tree)
    status.notices.append("starting again")
    with run_view:
        for _ in range(3):
            run_view.show(status)
    (record,) = caplog.records
    assert record.getMessage().startswith("the view of the run failed, and the run goes on: ")


def test_an_error_of_the_run_is_not_the_views(tree: OutputTree) -> None:
    run_view, _ = view(tree, terminal=True)
    with pytest.raises(EnvironmentFailure), run_view:
        raise EnvironmentFailure("the producer has ended")
