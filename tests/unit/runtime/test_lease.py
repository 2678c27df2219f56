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
from beam_pipeline.runtime.lease import hold_lease, holder_of
from beam_pipeline.runtime.lease_terms import LEASE_FILE, LeaseTimes

# Each call of `beat` is due, and a lease that is not whole is not waited for.
AT_ONCE = LeaseTimes(heartbeat=0.0, torn=0.0)
EXPIRES_AT_ONCE = LeaseTimes(heartbeat=0.0, expiry=0.0, torn=0.0)


def write_lease(directory: Path, content: bytes) -> Path:
    path = directory / LEASE_FILE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def lease_of(**fields: Any) -> bytes:
    fields = {"host": "elsewhere", "pid": 7, "heartbeat": time.time(), **fields}
    return json.dumps(fields).encode()


@pytest.fixture
def renewals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What another machine writes while its lease is watched, one content a look."""
    contents: list[bytes] = []

    def look(_seconds: float) -> None:
        if contents:
            write_lease(tmp_path, contents.pop(0))

    monkeypatch.setattr(time, "sleep", look)
    return contents


# By the clock of this machine it is as old as can be: clocks of two machines may differ.
@pytest.mark.parametrize("heartbeat", [0.0, 1e12])
def test_the_heartbeat_of_another_machine_is_respected(
    tmp_path: Path, renewals: list[bytes], heartbeat: float
) -> None:
    path = write_lease(tmp_path, lease_of(heartbeat=heartbeat))
    renewals[:] = [lease_of(heartbeat=heartbeat)] * 3 + [lease_of(heartbeat=heartbeat + 5)]
    with (
        pytest.raises(EnvironmentFailure, match="process 7 on elsewhere"),
        hold_lease(tmp_path, "--output_dir"),
    ):
        pass
    assert path.read_bytes() == lease_of(heartbeat=heartbeat + 5)


def test_a_lease_that_another_machine_does_not_renew_is_taken_over(tmp_path: Path) -> None:
    path = write_lease(tmp_path, lease_of(heartbeat=1e12))
    notices: list[str] = []
    with hold_lease(tmp_path, "--output_dir", EXPIRES_AT_ONCE, notices.append):
        assert json.loads(path.read_bytes())["pid"] == os.getpid()
    (notice,) = notices
    assert notice.startswith(f"--output_dir={tmp_path}: process 7 on elsewhere has not released it")


def test_a_lease_that_is_released_while_it_is_watched_is_taken(
    tmp_path: Path, renewals: list[bytes]
) -> None:
    write_lease(tmp_path, lease_of())
    renewals[:] = [b"{}"]
    with hold_lease(tmp_path, "--output_dir"):
        pass


def test_a_released_lease_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        with hold_lease(tmp_path, "--output_dir"):
            pass
    assert json.loads((tmp_path / LEASE_FILE).read_bytes()) == {}


@pytest.mark.parametrize("torn", [b"", b'{"host": "elsewh', b"12", b'{"pid": 7}'])
def test_a_lease_that_is_not_whole_is_held_until_it_expires(
    tmp_path: Path, renewals: list[bytes], torn: bytes
) -> None:
    path = write_lease(tmp_path, torn)
    renewals[:] = [torn, torn + b" "]
    with (
        pytest.raises(EnvironmentFailure, match="is being written by another pipeline"),
        hold_lease(tmp_path, "--output_dir", AT_ONCE),
    ):
        pass
    assert path.read_bytes() == torn + b" "
    with hold_lease(tmp_path, "--output_dir", EXPIRES_AT_ONCE):
        pass


@pytest.mark.parametrize(
    "content",
    [lease_of(), lease_of(id="ff"), b"{}", b"", b'{"host"'],
    ids=["older release", "another", "released", "empty", "torn"],
)
def test_a_lease_that_is_not_ours_any_more_is_left_alone(tmp_path: Path, content: bytes) -> None:
    with hold_lease(tmp_path, "--output_dir", AT_ONCE) as held:
        held.beat()
        path = write_lease(tmp_path, content)
        with pytest.raises(EnvironmentFailure, match="took the lease over"):
            held.beat()
    assert path.read_bytes() == content


def test_a_heartbeat_is_whole_at_any_moment(tmp_path: Path) -> None:
    """It is one write over the old one, of the same length."""
    with hold_lease(tmp_path, "--output_dir", AT_ONCE) as held:
        sizes = {(tmp_path / LEASE_FILE).stat().st_size}
        held.beat()
        sizes.add((tmp_path / LEASE_FILE).stat().st_size)
    sizes.add((tmp_path / LEASE_FILE).stat().st_size)
    assert len(sizes) == 1


def test_a_directory_that_vanishes_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "out"
    with hold_lease(root, "--output_dir", AT_ONCE) as held:
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
