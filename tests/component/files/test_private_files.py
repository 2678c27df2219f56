"""Dead letters and logs are their user's alone, Parquet files follow the umask."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from sample_records import letter

from beam_pipeline.io.dead_letters import WriteDeadLetterFiles
from beam_pipeline.io.windowed_files import FileLayout
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.processes import ManagedProcess


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """The usual one: files may be read by everybody."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(root: Path) -> set[tuple[bool, int]]:
    """(is a directory, permission bits) of everything at and below `root`."""
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [root, *root.rglob("*")]}


def write_letters(root: Path, *, private: bool) -> None:
    layout = FileLayout(str(root), "20261124T133350Zx3f9a", private=private)
    with beam.Pipeline() as pipeline:
        _ = (
            pipeline
            | beam.Create([TimestampedValue(letter(offset=offset), 5) for offset in range(3)])
            | beam.WindowInto(FixedWindows(10))
            | WriteDeadLetterFiles(layout, 1)
        )
    assert list(root.glob("dt=*/hour=*/*.jsonl"))


def test_dead_letters_are_private(tmp_path: Path) -> None:
    write_letters(tmp_path / "dead", private=True)
    assert modes(tmp_path / "dead") == {(True, 0o700), (False, 0o600)}


def test_shared_ones_follow_the_umask(tmp_path: Path) -> None:
    write_letters(tmp_path / "dead", private=False)
    assert modes(tmp_path / "dead") == {(True, 0o755), (False, 0o644)}


def test_a_directory_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    root = tmp_path / "dead"
    root.mkdir(mode=0o750)
    preflight.check_writable(root, "--dead_letter_dir", private=True)
    write_letters(root, private=True)
    assert stat.S_IMODE(root.stat().st_mode) == 0o750
    below = set().union(*(modes(path) for path in root.iterdir()))
    assert below == {(True, 0o700), (False, 0o600)}


def test_logs_are_private_and_what_is_above_them_is_not(tmp_path: Path) -> None:
    log = tmp_path / "a" / "logs" / "broker.log"
    with ManagedProcess("true", ["true"], log) as process:
        process.wait(10)
    assert modes(log.parent) == {(True, 0o700), (False, 0o600)}
    assert stat.S_IMODE(log.parent.parent.stat().st_mode) == 0o755
    preflight.check_writable(tmp_path / "logs", "--log_dir", private=True)
    assert modes(tmp_path / "logs") == {(True, 0o700)}
    preflight.check_writable(tmp_path / "output", "--output_dir")
    assert modes(tmp_path / "output") == {(True, 0o755)}
