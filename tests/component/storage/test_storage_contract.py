"""What `Storage` promises, over a directory and over a real server of each object store."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.paths import ObjectPath, open_for_arrow
from beam_pipeline.storage.protocol import Storage, StoredObject
from beam_pipeline.storage.urls import open_storage

_THREADS = 8
_ROUNDS = 10
_ODD_KEYS = (
    "dt=2026-11-26/hour=20/orders-s0.parquet",
    "_ledger/lease.json",
    "a b/c  d.json",
    "at@home/plus+plus/per%cent%20/tilde~.json",
    "ünïcode/日本語/🙂.json",
    'quote\'/"double"/(brackets)[x]/semi;colon&amp,comma.json',
    "hash#/question?/star*/colon:.json",
)
_LEDGER = "ledger.json"


@pytest.fixture(params=["directory", "s3", "gcs", "azure"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "directory":
        return str(tmp_path / "storage")
    address: str = request.getfixturevalue(f"{request.param}_url")
    return address


@pytest.fixture
def storage(url: str) -> Storage:
    return open_storage(url, StorageConfig())


@pytest.fixture
def conditional_deletes(storage: Storage) -> None:
    """Skips a test on a server that deletes whatever the condition is."""
    if storage.url.startswith("gs://"):
        pytest.skip("fake-gcs-server ignores the generation of a delete")


@pytest.fixture
def source(tmp_path: Path) -> Callable[[bytes], Path]:
    """Makes local files with a content."""
    number = iter(range(10**6))

    def make(content: bytes) -> Path:
        path = tmp_path / f"source-{next(number)}"
        path.write_bytes(content)
        return path

    return make


def keys(storage: Storage, prefix: str = "") -> list[str]:
    return sorted(entry.key for entry in storage.objects(prefix))


def winners(contend: Callable[..., bool], *arguments: object) -> list[int]:
    """Run `contend` in eight threads at once; return the numbers of those that said yes.

    It is called with the number and with `arguments`.
    """
    barrier = threading.Barrier(_THREADS)
    successes: list[int] = []
    errors: list[BaseException] = []

    def run(number: int) -> None:
        barrier.wait()
        try:
            if contend(number, *arguments):
                successes.append(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return successes


def test_nothing_is_there_at_first(storage: Storage) -> None:
    assert keys(storage) == []
    assert list(storage.children()) == []
    assert list(storage.children("no/such")) == []
    assert list(storage.uploads()) == []
    storage.delete(["no/such.json"])
    for read in (storage.read, storage.stat, lambda key: storage.read_range(key, 0, 1)):
        with pytest.raises(FileNotFoundError, match=r"no/such\.json"):
            read("no/such.json")
    with pytest.raises(FileNotFoundError):
        storage.read_range("no/such.json", 0, 0)


def test_a_key_is_taken_once(storage: Storage, source: Callable[[bytes], Path]) -> None:
    assert storage.put_if_absent(source(b"first"), "a/slot")
    assert not storage.put_if_absent(source(b"second"), "a/slot")
    assert storage.read("a/slot").data == b"first"
    storage.delete(["a/slot"])
    assert storage.put_if_absent(source(b"third"), "a/slot")
    assert storage.read("a/slot").data == b"third"


def test_a_large_file_meets_a_taken_key(storage: Storage, source: Callable[[bytes], Path]) -> None:
    large = random.Random(1).randbytes(12 * 1024**2)
    assert storage.put_if_absent(source(large), "large")
    assert storage.read("large").data == large
    assert not storage.put_if_absent(source(b"x" * len(large)), "large")
    assert storage.read("large").data == large


def test_one_of_many_takes_a_key(storage: Storage, source: Callable[[bytes], Path]) -> None:
    def contend(number: int, key: str, files: list[Path]) -> bool:
        return storage.put_if_absent(files[number], key)

    for turn in range(_ROUNDS):
        key = f"race/{turn}"
        files = [source(b"%d" % number * 1000) for number in range(_THREADS)]
        won = winners(contend, key, files)
        assert len(won) == 1
        assert storage.read(key).data == b"%d" % won[0] * 1000


def test_one_of_many_makes_an_object(storage: Storage) -> None:
    def contend(number: int, key: str) -> bool:
        return storage.put_if_match(key, b"%d" % number, None) is not None

    for turn in range(_ROUNDS):
        key = f"race/{turn}"
        won = winners(contend, key)
        assert len(won) == 1
        assert storage.read(key).data == b"%d" % won[0]


def test_one_of_many_replaces_a_version(storage: Storage) -> None:
    def contend(number: int, turn: int, version: str) -> bool:
        return storage.put_if_match(_LEDGER, b"%d %d" % (turn, number), version) is not None

    storage.put(_LEDGER, b"start")
    for turn in range(_ROUNDS):
        won = winners(contend, turn, storage.read(_LEDGER).version)
        assert len(won) == 1
        assert storage.read(_LEDGER).data == b"%d %d" % (turn, won[0])


def test_one_of_many_deletes_a_version(storage: Storage) -> None:
    def contend(number: int, version: str) -> bool:
        return storage.delete_if_match(_LEDGER, version)

    for turn in range(_ROUNDS):
        storage.put(_LEDGER, b"%d" % turn)
        won = winners(contend, storage.read(_LEDGER).version)
        # S3 answers to all alike: the version is gone.
        assert len(won) == 1 or (won and storage.url.startswith("s3://"))
        assert keys(storage) == []


def test_a_version_is_replaced_or_deleted_never_both(
    storage: Storage, conditional_deletes: None
) -> None:
    def contend(number: int, version: str, replaced: list[int]) -> bool:
        if number % 2:
            return storage.delete_if_match(_LEDGER, version)
        if storage.put_if_match(_LEDGER, b"new", version) is None:
            return False
        replaced.append(number)
        return True

    for turn in range(_ROUNDS):
        storage.put(_LEDGER, b"old %d" % turn)
        replaced: list[int] = []
        won = winners(contend, storage.read(_LEDGER).version, replaced)
        if replaced:
            assert won == replaced
            assert len(won) == 1
            assert storage.read(_LEDGER).data == b"new"
        else:
            assert won
            assert keys(storage) == []


def test_a_version_is_replaced_once(storage: Storage) -> None:
    assert storage.put_if_match(_LEDGER, b"0", "no-such-version") is None
    first = storage.put_if_match(_LEDGER, b"1", None)
    assert first is not None
    assert storage.put_if_match(_LEDGER, b"other", None) is None
    second = storage.put_if_match(_LEDGER, b"2", first)
    assert second is not None
    assert storage.read(_LEDGER) == (b"2", second)
    assert storage.put_if_match(_LEDGER, b"3", first) is None
    assert storage.read(_LEDGER).data == b"2"


def test_a_stale_version_is_not_deleted(storage: Storage, conditional_deletes: None) -> None:
    first = storage.put_if_match(_LEDGER, b"1", None)
    assert first is not None
    second = storage.put_if_match(_LEDGER, b"2", first)
    assert second is not None
    assert not storage.delete_if_match(_LEDGER, first)
    assert storage.read(_LEDGER).data == b"2"
    assert storage.delete_if_match(_LEDGER, second)
    assert keys(storage) == []
    assert storage.put_if_match(_LEDGER, b"3", second) is None


def test_an_object_is_written_in_place_of_another(
    storage: Storage, source: Callable[[bytes], Path]
) -> None:
    storage.put("a/b", b"1")
    storage.put("a/b", b"22")
    assert storage.read("a/b").data == b"22"
    storage.put_file(source(b"333"), "a/b")
    assert storage.read("a/b").data == b"333"
    storage.put("empty", b"")
    assert storage.read("empty").data == b""
    assert storage.stat("empty").size_bytes == 0
    assert storage.read_range("empty", -8, 8) == b""


def test_ranges(storage: Storage) -> None:
    storage.put("digits", b"0123456789")
    ranges = [
        (0, 4),
        (2, 3),
        (8, 5),
        (10, 1),
        (99, 1),
        (-3, 3),
        (-4, 2),
        (-99, 99),
        (-1, 5),
        (3, 0),
    ]
    expected = [b"0123", b"234", b"89", b"", b"", b"789", b"67", b"0123456789", b"9", b""]
    assert [storage.read_range("digits", *which) for which in ranges] == expected


def test_sizes_and_times(storage: Storage) -> None:
    storage.put("a/digits", b"0123456789")
    (listed,) = storage.objects()
    (child,) = storage.children("a")
    described = storage.stat("a/digits")
    assert [(entry.key, entry.size_bytes) for entry in (listed, described)] == [
        ("a/digits", 10)
    ] * 2
    assert isinstance(child, StoredObject)
    assert child[:2] == listed[:2]
    for entry in (listed, child, described):
        # The servers run on this machine; HTTP's dates have whole seconds.
        assert time.time() - 600 < entry.modified_s < time.time() + 5
    assert abs(listed.modified_s - described.modified_s) <= 1


def test_prefixes_and_children(storage: Storage) -> None:
    for key in ("a/b/1", "a/b/2", "a/bc/3", "a/4", "ab/5", "6"):
        storage.put(key, b"x")
    assert keys(storage) == ["6", "a/4", "a/b/1", "a/b/2", "a/bc/3", "ab/5"]
    assert keys(storage, "a/b") == ["a/b/1", "a/b/2", "a/bc/3"]
    assert keys(storage, "a/b/") == ["a/b/1", "a/b/2"]
    assert keys(storage, "a") == ["a/4", "a/b/1", "a/b/2", "a/bc/3", "ab/5"]
    assert keys(storage, "c") == []

    def children(key: str = "") -> set[str]:
        entries = storage.children(key)
        assert len(entries) == len(set(entries))
        return {entry if isinstance(entry, str) else f"={entry.key}" for entry in entries}

    assert children() == {"a", "ab", "=6"}
    assert children("a") == {"b", "bc", "=a/4"}
    assert children("a/b") == {"=a/b/1", "=a/b/2"}


def test_a_listing_of_several_pages(storage: Storage) -> None:
    names = [f"many/{number:04d}" for number in range(1205)]
    for name in names:
        storage.put(name, b"")
    storage.put("other/1", b"")
    assert keys(storage, "many/") == names
    assert len(storage.children("many")) == len(names)
    storage.delete(iter([*names, "many/no-such"]))
    assert keys(storage) == ["other/1"]


def test_odd_keys(storage: Storage, source: Callable[[bytes], Path]) -> None:
    for key in _ODD_KEYS:
        assert storage.put_if_absent(source(key.encode()), key)
    assert keys(storage) == sorted(_ODD_KEYS)
    for key in _ODD_KEYS:
        assert storage.read(key).data == key.encode()
        assert storage.stat(key).size_bytes == len(key.encode())
        folder, _, name = key.rpartition("/")
        (child,) = storage.children(folder)
        assert isinstance(child, StoredObject)
        assert child.key == f"{folder}/{name}"
        assert keys(storage, folder) == [key]
    storage.delete(_ODD_KEYS[:3])
    for key in _ODD_KEYS[3:]:
        storage.delete([key])
    assert keys(storage) == []


def test_it_can_be_pickled(storage: Storage) -> None:
    storage.put("a", b"1")
    again: Storage = pickle.loads(pickle.dumps(storage))
    assert again.url == storage.url
    assert again.read("a").data == b"1"
    assert sum(again.requests.values()) <= 1


def test_a_forked_process_uses_it(storage: Storage) -> None:
    storage.put("parent", b"1")
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            storage.put("child", storage.read("parent").data + b"2")
            requests = storage.requests
            code = 0 if sum(requests.values()) in (0, 2) else 2
        os._exit(code)
    for number in range(20):
        storage.put(f"parent-{number}", b"1")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert storage.read("child").data == b"12"


def test_parquet_is_read(storage: Storage, source: Callable[[bytes], Path]) -> None:
    table = pa.table({"number": list(range(100_000))})
    path = source(b"")
    pq.write_table(table, path, row_group_size=10_000)
    assert storage.put_if_absent(path, "a/numbers.parquet")
    stored = ObjectPath(storage) / "a" / "numbers.parquet"
    assert pq.read_table(open_for_arrow(stored)).equals(table)
    with stored.open() as file:
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(7).equals(table.slice(70_000, 10_000))


class _Used(NamedTuple):
    kind: str
    use: Callable[[Storage], object]


def test_requests_are_counted_by_kind(url: str, source: Callable[[bytes], Path]) -> None:
    file = source(b"1")
    uses = [
        _Used("PUT", lambda storage: storage.put("a", b"1")),
        _Used("PUT", lambda storage: storage.put_if_absent(file, "b")),
        _Used("GET", lambda storage: storage.read("a")),
        _Used("GET", lambda storage: storage.read_range("a", 0, 1)),
        _Used("HEAD", lambda storage: storage.stat("a")),
        _Used("LIST", lambda storage: list(storage.objects())),
        _Used("LIST", lambda storage: storage.children()),
        _Used("DELETE", lambda storage: storage.delete(["a"])),
    ]
    storage = open_storage(url, StorageConfig())
    for used in uses:
        before = storage.requests.copy()
        used.use(storage)
        expected = {used.kind: 1} if "://" in url else {}
        assert dict(storage.requests - before) == expected


def test_requests_are_not_logged(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # that of Beam's workers
    storage.put("a", b"1")
    assert storage.read("a").data == b"1"
    assert caplog.records == []


def test_roots_keep_apart(url: str) -> None:
    config = StorageConfig()
    storage, beside = open_storage(f"{url}/a", config), open_storage(f"{url}/ab/", config)
    storage.put("1", b"1")
    beside.put("2", b"2")
    assert (keys(storage), keys(beside)) == (["1"], ["2"])
    assert storage.url == f"{url}/a"
    assert keys(open_storage(url, config)) == ["a/1", "ab/2"]


def test_text_about_a_storage_has_no_secret(storage: Storage) -> None:
    storage.put("a", b"1")
    texts = repr(storage) + str(storage) + repr(ObjectPath(storage) / "a") + repr(vars(storage))
    for name, value in os.environ.items():
        if name.startswith(("AWS_ACCESS", "AWS_SECRET")):
            assert value not in texts
    assert "AccountKey" not in texts
    assert storage.url in repr(storage)
