"""The lease on an output directory: who may take it, and when its holder must stop."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime import lease as lease_module
from beam_pipeline.runtime.lease import EXPIRY_SECONDS, LEASE_FILE, hold_lease, holder_of

LONG_AGO = time.time() - EXPIRY_SECONDS - 1


@pytest.fixture
def every_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of `beat` is due."""
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.0)


def write_lease(directory: Path, content: bytes) -> Path:
    path = directory / LEASE_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def lease_of(**fields: Any) -> bytes:
    fields = {"host": "elsewhere", "pid": 7, "heartbeat": time.time(), **fields}
    return json.dumps(fields).encode()


def test_the_heartbeat_of_another_machine_is_respected(tmp_path: Path) -> None:
    path = write_lease(tmp_path, lease_of())
    before = path.read_bytes()
    with (
        pytest.raises(EnvironmentFailure, match="process 7 on elsewhere"),
        hold_lease(tmp_path, "--output_dir"),
    ):
        pass
    assert path.read_bytes() == before


def test_an_expired_lease_is_taken_over(tmp_path: Path) -> None:
    path = write_lease(tmp_path, lease_of(heartbeat=LONG_AGO))
    with hold_lease(tmp_path, "--output_dir"):
        assert json.loads(path.read_bytes())["pid"] == os.getpid()


def test_a_released_lease_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        with hold_lease(tmp_path, "--output_dir"):
            pass
    assert json.loads((tmp_path / LEASE_FILE).read_bytes()) == {}


@pytest.mark.parametrize("torn", [b"", b'{"host": "elsewh', b"12", b'{"pid": 7}'])
def test_a_lease_that_is_not_whole_is_held_until_it_expires(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    monkeypatch.setattr(lease_module, "TORN_SECONDS", 0.0)
    path = write_lease(tmp_path, torn)
    with (
        pytest.raises(EnvironmentFailure, match="is being written by another pipeline"),
        hold_lease(tmp_path, "--output_dir"),
    ):
        pass
    assert path.read_bytes() == torn
    os.utime(path, (LONG_AGO, LONG_AGO))
    with hold_lease(tmp_path, "--output_dir"):
        pass


@pytest.mark.usefixtures("every_beat")
@pytest.mark.parametrize(
    "content",
    [lease_of(), lease_of(id="ff"), b"{}", b"", b'{"host"'],
    ids=["older release", "another", "released", "empty", "torn"],
)
def test_a_lease_that_is_not_ours_any_more_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(lease_module, "TORN_SECONDS", 0.0)
    with hold_lease(tmp_path, "--output_dir") as held:
        held.beat()
        path = write_lease(tmp_path, content)
        with pytest.raises(EnvironmentFailure, match="took the lease over"):
            held.beat()
    assert path.read_bytes() == content


@pytest.mark.usefixtures("every_beat")
def test_a_heartbeat_is_whole_at_any_moment(tmp_path: Path) -> None:
    """It is one write over the old one, of the same length."""
    with hold_lease(tmp_path, "--output_dir") as held:
        sizes = {(tmp_path / LEASE_FILE).stat().st_size}
        held.beat()
        sizes.add((tmp_path / LEASE_FILE).stat().st_size)
    sizes.add((tmp_path / LEASE_FILE).stat().st_size)
    assert len(sizes) == 1


@pytest.mark.usefixtures("every_beat")
def test_a_directory_that_vanishes_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "out"
    with hold_lease(root, "--output_dir") as held:
        held.beat()
        root.rename(tmp_path / "gone")
        with pytest.raises(EnvironmentFailure, match="has vanished"):
            held.beat()
        (tmp_path / "gone").rename(root)
        held.beat()


def test_a_directory_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with (
        pytest.raises(EnvironmentFailure, match="--dead_letter_dir="),
        hold_lease(blocked, "--dead_letter_dir"),
    ):
        pass


def test_who_holds_a_directory_is_known_without_a_lock(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    with hold_lease(tmp_path, "--output_dir"):
        holder = holder_of(tmp_path)
        assert holder is not None
        assert holder.name == f"process {os.getpid()} on {socket.gethostname()}"
    assert holder_of(tmp_path) is None, "released"


@pytest.mark.parametrize(
    ("record", "is_held"),
    [
        ({"host": "elsewhere", "pid": 7, "age": 3}, True),
        ({"host": "elsewhere", "pid": 7, "age": 300}, False),
        ({"host": socket.gethostname(), "pid": 2**22 + 1, "age": 3}, False),
    ],
)
def test_a_lease_that_expired_or_whose_process_is_gone_holds_nothing(
    tmp_path: Path, record: dict[str, Any], is_held: bool
) -> None:
    path = tmp_path / LEASE_FILE
    path.parent.mkdir()
    heartbeat = time.time() - record.pop("age")
    path.write_text(json.dumps({**record, "heartbeat": heartbeat, "id": "x"}))
    assert (holder_of(tmp_path) is not None) == is_held
    path.write_text('{"host": ')
    assert holder_of(tmp_path) is None
