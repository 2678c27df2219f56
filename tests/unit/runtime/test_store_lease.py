"""The lease on an object store: who may take it, and what its holder makes of each answer."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.lease import hold_lease, holder_of
from beam_pipeline.runtime.lease_terms import LEASE_FILE, LeaseLostError, LeaseTimes
from beam_pipeline.runtime.store_lease import (
    FreeLease,
    HeldLease,
    StoreLease,
    parse_store_lease,
)
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.storage.protocol import StorageAwayError

# The thread of a lease makes no beat within a test: `confirm` and `beat` do.
QUIET = LeaseTimes(heartbeat=3600.0, expiry=7200.0)
EXPIRES_AT_ONCE = LeaseTimes(heartbeat=0.0, expiry=0.0)
ELSEWHERE = HeldLease("elsewhere", 7, "another boot", "pid:[1]", "5", "ff", generation=3)


@dataclass(frozen=True)
class Store(DirectoryStorage):
    """Loses answers, refuses, or is away, when told to; notes each content that was put."""

    ways: list[str] = field(default_factory=list, compare=False)
    replaced: list[bytes] = field(default_factory=list, compare=False)

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        self.replaced.append(content)
        way = self.ways.pop(0) if self.ways else ""
        if way == "away":
            raise StorageAwayError("no answer")
        if way == "conflict":
            return None
        new = super().put_if_match(key, content, version)
        return None if way == "answer lost" else new


@pytest.fixture
def root(tmp_path: Path) -> ObjectPath:
    return ObjectPath(Store(tmp_path))


def store_of(root: ObjectPath) -> Store:
    assert isinstance(root.storage, Store)
    return root.storage


def content(root: ObjectPath) -> HeldLease | FreeLease:
    return parse_store_lease((root / LEASE_FILE).read_bytes())


def held(root: ObjectPath) -> HeldLease:
    lease = content(root)
    assert isinstance(lease, HeldLease)
    return lease


def write(root: ObjectPath, lease: HeldLease | FreeLease | bytes) -> None:
    text = lease if isinstance(lease, bytes) else lease.to_json()
    DirectoryStorage(store_of(root).root).put(str(LEASE_FILE), text)


@pytest.fixture
def renewals(root: ObjectPath, monkeypatch: pytest.MonkeyPatch) -> list[HeldLease | FreeLease]:
    """What another holder writes while its lease is watched, one content a look."""
    leases: list[HeldLease | FreeLease] = []

    def look(_seconds: float) -> None:
        if leases:
            write(root, leases.pop(0))

    monkeypatch.setattr(time, "sleep", look)
    return leases


def test_a_lease_that_nobody_has_is_taken_and_released(root: ObjectPath) -> None:
    for generation in (1, 2):
        with hold_lease(root, "--output_dir", QUIET):
            lease = held(root)
            assert (lease.pid, lease.host) == (os.getpid(), socket.gethostname())
            assert lease.generation == generation
    assert content(root) == FreeLease(2)


def test_a_holder_that_beats_is_respected_and_named(
    root: ObjectPath, renewals: list[HeldLease | FreeLease]
) -> None:
    write(root, ELSEWHERE)
    beaten = replace(ELSEWHERE, beat=1)
    renewals[:] = [ELSEWHERE, ELSEWHERE, beaten]
    notices: list[str] = []
    with (
        pytest.raises(EnvironmentFailure) as refused,
        hold_lease(root, "--output_dir", QUIET, notices.append),
    ):
        pass
    assert str(refused.value) == (
        f"--output_dir={root} is being written by another pipeline (process 7 on elsewhere); "
        "stop that one, or give this one a directory of its own"
    )
    assert held(root) == beaten
    (notice,) = notices
    assert "process 7 on elsewhere has not released it; waiting up to 7200 s" in notice


def test_a_lease_that_is_not_renewed_is_taken_over(root: ObjectPath) -> None:
    write(root, ELSEWHERE)
    with hold_lease(root, "--output_dir", EXPIRES_AT_ONCE):
        assert held(root).generation == 4


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"pid": 7}', b'{"generation": "x"}'])
def test_an_object_that_is_no_lease_expires_too(root: ObjectPath, damage: bytes) -> None:
    write(root, damage)
    with hold_lease(root, "--output_dir", EXPIRES_AT_ONCE):
        assert held(root).pid == os.getpid()


def test_a_lease_that_is_released_while_it_is_watched_is_taken(
    root: ObjectPath, renewals: list[HeldLease | FreeLease]
) -> None:
    write(root, ELSEWHERE)
    renewals[:] = [FreeLease(3)]
    with hold_lease(root, "--output_dir", QUIET):
        assert held(root).generation == 4


def test_a_dead_process_of_this_machine_holds_nothing(root: ObjectPath) -> None:
    with hold_lease(root, "--output_dir", QUIET):
        mine = held(root)
    reused = replace(mine, started="1")
    write(root, reused)
    notices: list[str] = []
    with hold_lease(root, "--output_dir", QUIET, notices.append):
        assert held(root).generation == mine.generation + 1
    assert notices == []


def test_a_pid_counts_only_where_pids_mean_the_same(root: ObjectPath) -> None:
    with hold_lease(root, "--output_dir", QUIET):
        mine = held(root)
    assert not mine.is_of_dead_process
    dead = replace(mine, started="1")
    assert dead.is_of_dead_process
    for elsewhere in (
        replace(dead, boot="another"),
        replace(dead, boot=""),
        replace(dead, pid_namespace="another"),
    ):
        assert not elsewhere.is_of_dead_process


def test_each_content_is_new(root: ObjectPath) -> None:
    """Where versions are hashes of the content, an old one must not come back."""
    for _ in range(2):
        with hold_lease(root, "--output_dir", QUIET) as lease:
            lease.confirm()
            lease.confirm()
    puts = store_of(root).replaced
    assert len(puts) == len(set(puts)) == 8


@pytest.mark.parametrize("way", ["answer lost", "conflict", "away"])
def test_a_beat_whose_answer_is_lost_is_settled_by_reading(root: ObjectPath, way: str) -> None:
    with hold_lease(root, "--output_dir", QUIET) as lease:
        store_of(root).ways.append(way)
        for _ in range(3):
            lease.confirm()
        lease.beat()
        assert held(root).nonce
    assert content(root) == FreeLease(1)


def test_a_taking_whose_answer_is_lost_is_settled_by_reading(root: ObjectPath) -> None:
    store_of(root).ways.append("answer lost")
    with hold_lease(root, "--output_dir", QUIET):
        assert held(root).generation == 1


@pytest.mark.parametrize("theirs", [ELSEWHERE, FreeLease(4), b"", b"[]"])
def test_a_lease_that_is_not_ours_any_more_is_left_alone(
    root: ObjectPath, theirs: HeldLease | FreeLease | bytes
) -> None:
    with hold_lease(root, "--output_dir", QUIET) as lease:
        write(root, theirs)
        with pytest.raises(LeaseLostError, match="took the lease over, because this one stood sti"):
            lease.confirm()
        with pytest.raises(LeaseLostError):
            lease.beat()
    expected = theirs if isinstance(theirs, bytes) else theirs.to_json()
    assert (root / LEASE_FILE).read_bytes() == expected


def test_a_lease_that_vanishes_is_an_error(root: ObjectPath) -> None:
    with hold_lease(root, "--output_dir", QUIET) as lease:
        (store_of(root).root / LEASE_FILE).unlink()
        with pytest.raises(EnvironmentFailure, match="has vanished"):
            lease.confirm()


def test_a_store_that_is_away_for_long_allows_no_new_job_and_ends_no_run(root: ObjectPath) -> None:
    lease = StoreLease(root, "--output_dir", EXPIRES_AT_ONCE)
    lease._thread = threading.Thread(target=lambda: None)
    lease.take()
    store_of(root).ways.extend(["away"] * 2)
    lease.beat()
    with pytest.raises(StorageAwayError):
        lease.confirm()
    lease.confirm()
    lease.release()


def test_a_beat_of_a_process_that_stood_still_finds_its_lease_lost(root: ObjectPath) -> None:
    """Its thread has stood still too, and may not be the first to run."""
    lease = StoreLease(root, "--output_dir", EXPIRES_AT_ONCE)
    lease._thread = threading.Thread(target=lambda: None)
    lease.take()
    write(root, ELSEWHERE)
    with pytest.raises(LeaseLostError, match="process 7 on elsewhere"):
        lease.beat()


def test_a_beat_does_not_wait_for_the_answer_to_a_renewal_of_the_thread(root: ObjectPath) -> None:
    """A store that is away takes its time to fail, and the run goes on meanwhile."""
    lease = StoreLease(root, "--output_dir", EXPIRES_AT_ONCE)
    lease._thread = threading.Thread(target=lambda: None)
    lease.take()
    write(root, ELSEWHERE)
    with lease._lock:
        lease.beat()
    with pytest.raises(LeaseLostError):
        lease.beat()


def test_a_thread_renews_the_lease(root: ObjectPath) -> None:
    beaten = threading.Event()

    @dataclass(frozen=True)
    class Watched(Store):
        def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
            new = super().put_if_match(key, content, version)
            lease = parse_store_lease(content)
            if isinstance(lease, HeldLease) and lease.beat == 3:
                beaten.set()
            return new

    watched = ObjectPath(Watched(store_of(root).root, ways=["", "away"]))
    with hold_lease(watched, "--output_dir", LeaseTimes(heartbeat=0.001)) as lease:
        assert beaten.wait(30)
        lease.beat()
    assert content(root) == FreeLease(1)


def test_who_holds_a_prefix_is_known(
    root: ObjectPath, renewals: list[HeldLease | FreeLease]
) -> None:
    assert holder_of(root) is None
    with hold_lease(root, "--output_dir", QUIET):
        holder = holder_of(root)
        assert holder is not None
        assert holder.name == f"process {os.getpid()} on {socket.gethostname()}"
        mine = held(root)
    assert holder_of(root) is None, "released"
    write(root, replace(mine, started="1"))
    assert holder_of(root) is None, "dead"
    write(root, ELSEWHERE)
    renewals[:] = [ELSEWHERE, replace(ELSEWHERE, beat=1)]
    holder = holder_of(root)
    assert holder is not None
    assert holder.name == "process 7 on elsewhere"
    assert holder_of(root, EXPIRES_AT_ONCE) is None, "expired"


@dataclass(frozen=True)
class Overtaken(Store):
    """Another contender takes the lease between the first read and the replace."""

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        write(ObjectPath(self), ELSEWHERE)
        return super().put_if_match(key, content, version)


def test_of_two_that_see_a_free_lease_the_slower_one_is_refused(
    root: ObjectPath, renewals: list[HeldLease | FreeLease]
) -> None:
    write(root, FreeLease(2))
    renewals[:] = [replace(ELSEWHERE, beat=1)]
    overtaken = ObjectPath(Overtaken(store_of(root).root))
    with (
        pytest.raises(EnvironmentFailure, match="process 7 on elsewhere"),
        hold_lease(overtaken, "--output_dir", QUIET),
    ):
        pass
