"""Any interleaving of reads, panes, crashes, restores and restarts lands every record once.

No runner: the steps that a runner takes are the rules of a state machine, over the pipeline's own
code and a real directory. A runner's bundle is all or nothing, so a step that crashes keeps its
files and loses its state; a restore takes the state back to an earlier checkpoint, and the files
stay; a new epoch has nothing but the files. After a restore, a worker of the timeline that is no
more may go on for a while (a zombie): it reads and fires as before. So may a worker of an epoch
that is over; its files are strays, which the ledger of the present epoch finds and removes. A
worker may also freeze with a file that is finished but for its name, and give it the name later,
when its epoch is over or not.

The files are in a directory, and in an object store.
"""

from __future__ import annotations

import collections
import copy
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pyarrow.parquet
import pytest
from apache_beam.transforms.window import IntervalWindow
from dofn_states import Bag, Cell, Timer
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sample_records import NOON_MS, contract_of, kafka_record, rfc3339
from stores import BUCKET, Store

from beam_pipeline.config import PaneTiming, ValidationRules
from beam_pipeline.covered_offsets import CoveredOffsets, without_covered
from beam_pipeline.files import parts
from beam_pipeline.files.ledger import Ledger, load_ledger
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.files.parts import LocalParts, PartMissingError, PartRef
from beam_pipeline.files.tree import visible_paths
from beam_pipeline.io import windowed_files
from beam_pipeline.io.dead_letters import JsonLinesFormat
from beam_pipeline.io.kafka import batch_of_records
from beam_pipeline.io.parquet import ParquetFormat
from beam_pipeline.io.windowed_files import (
    FileLayout,
    _AssembleFiles,
    _WriteParts,
    publish,
)
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.records import KafkaRecord
from beam_pipeline.schemas.contract import file_schema
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.urls import stored_path
from beam_pipeline.transforms.validate import RecordValidator
from beam_pipeline.transforms.windowing import cut_by_window

TOPIC = "orders"
PARTITIONS = range(2)
NUM_SHARDS = 2
WINDOW_SECONDS = 10

# (event time in seconds, whether it becomes a row); most are rows of one window.
RECORDS = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, 11]), st.sampled_from([True, True, False])),
    min_size=2,
    max_size=8,
)

CONTRACT = contract_of(
    {
        "type": "object",
        "properties": {"at": {"type": "string", "format": "date-time"}},
        "required": ["at"],
        "additionalProperties": False,
    }
)
VALIDATOR = RecordValidator(CONTRACT, ValidationRules("at"))
ROWS = file_schema(CONTRACT.batch_schema)

Offset = tuple[int, int]
"""Partition and offset."""

KINDS = ("rows", "letters")
CRASHES = ("before publish", "in publish", "behind publish", "in retire")
FREEZES = "freezes before publish"


class Crash(BaseException):
    """The process dies here; nothing catches it."""


@dataclass
class KeyState:
    """What a runner keeps for one window and shard."""

    parts: Bag = field(default_factory=Bag)
    pane: Cell = field(default_factory=Cell)
    adopted: Cell = field(default_factory=Cell)
    waiting_since: Cell = field(default_factory=Cell)
    closed: Cell = field(default_factory=Cell)


@dataclass
class JobState:
    """What a checkpoint holds: how far each partition is read, and the state of every key."""

    positions: dict[int, int]
    keys: dict[tuple[str, str], KeyState] = field(
        default_factory=lambda: collections.defaultdict(KeyState)
    )


class Sink:
    """The DoFns of one root in one epoch."""

    def __init__(self, layout: FileLayout, file_format: Any) -> None:
        self.write_parts = _WriteParts(layout, file_format)
        self.assemble = _AssembleFiles(layout, file_format, "test", PaneTiming())
        self.write_parts.setup()
        self.assemble.setup()

    def parts_of(self, elements: list[tuple[Any, int]]) -> list[tuple[str, Any]]:
        """The keyed parts of a bundle of (element, its time in seconds)."""
        self.write_parts.start_bundle()
        for element, seconds in elements:
            start = seconds // WINDOW_SECONDS * WINDOW_SECONDS
            window = IntervalWindow(start, start + WINDOW_SECONDS)
            assert list(self.write_parts.process(element, window, seconds)) == []
        return [windowed.value for windowed in self.write_parts.finish_bundle()]


@dataclass
class DeadEpoch:
    """What a worker of an epoch that is over still has in memory."""

    state: JobState
    sinks: dict[str, Sink]
    covered: CoveredOffsets


class Epochs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        # Slow, and without effect on what a killed process leaves; it is tested with `publish`.
        self.no_fsync = mock.patch.object(os, "fsync")
        self.no_fsync.start()
        self.roots = {kind: Path(self.directory.name, kind) for kind in KINDS}
        self.log: dict[int, list[KafkaRecord]] = {partition: [] for partition in PARTITIONS}
        self.deleted: set[Offset] = set()
        self.ever_landed: set[Offset] = set()
        self.frozen: list[tuple[FileLayout, OutputFile, Path]] = []
        self.epoch_number = 0
        self.dead: list[DeadEpoch] = []
        self.sinks: dict[str, Sink] = {}
        self.covered = CoveredOffsets()

    def layout_of(self, kind: str, epoch: str) -> FileLayout:
        """Where the files of an epoch go; the tests look at them below `self.roots`."""
        return FileLayout(str(self.roots[kind]), epoch)

    def ledger_of(self) -> Ledger:
        return load_ledger(self.roots["rows"], self.roots["letters"])

    def is_retired(self, kind: str, part: PartRef) -> bool:
        """Whether a part is in a file by what its directory says."""
        return not Path(part.path).exists()

    def teardown(self) -> None:
        try:
            self.catch_up()
        finally:
            self.no_fsync.stop()
            self.directory.cleanup()

    @initialize()
    def first_epoch(self) -> None:
        self.new_epoch()

    def new_epoch(self) -> None:
        """The process was killed, and is started again: it has the files, and nothing else."""
        self.assert_files_say_what_they_hold()
        self.epoch_number += 1
        epoch = f"epoch{self.epoch_number}"
        if self.sinks:
            self.dead.append(DeadEpoch(copy.deepcopy(self.state), self.sinks, self.covered))
        for kind in KINDS:
            self.layout_of(kind, epoch).parts().sweep_other_epochs()
        self.ledger = ledger = self.ledger_of()
        ledger.remove_strays()
        ledger.begin_epoch(epoch)
        self.snapshot_files = set(ledger.files)
        starts = {
            TopicPartition(TOPIC, p): ledger.covered.prefix_end(TOPIC, p, 0) for p in PARTITIONS
        }
        self.covered = CoveredOffsets.from_json(ledger.covered.beyond(starts).to_json())
        self.checkpoints: list[JobState] = []
        self.zombies: list[JobState] = []
        self.commit(
            JobState(
                {partition: starts[TopicPartition(TOPIC, partition)] for partition in PARTITIONS}
            )
        )
        self.sinks = {
            "rows": Sink(
                self.layout_of("rows", epoch), ParquetFormat(ROWS, NUM_SHARDS, CONTRACT.ref)
            ),
            "letters": Sink(self.layout_of("letters", epoch), JsonLinesFormat(epoch, NUM_SHARDS)),
        }
        self.epoch = epoch

    def append(self, partition: int, records: list[tuple[int, bool]]) -> None:
        for seconds, is_row in records:
            value = {"at": rfc3339(NOON_MS + seconds * 1000)} if is_row else b"{"
            self.log[partition].append(
                kafka_record(
                    value,
                    topic=TOPIC,
                    partition=partition,
                    offset=len(self.log[partition]),
                    timestamp=NOON_MS + seconds * 1000,
                )
            )

    # One rule for all: hypothesis leaves out whole rules at random, and what has to come together
    # here, a part that waits behind one that fired and then a restart, would hardly ever do so.
    @rule(
        arrivals=st.tuples(*[st.just([]) | RECORDS for _ in PARTITIONS]),
        counts=st.tuples(*[st.integers(0, 3) for _ in PARTITIONS]),
        crashes=st.sampled_from([False, False, False, True]),
        fires=st.sampled_from(["some", "none", "all"]),
        then=st.sampled_from(
            [
                *("go on", "restart", "restore", "retention passes", "old files go", "catch up"),
                *("a zombie wakes up", "a worker of a dead epoch wakes up"),
                "a frozen worker publishes",
            ]
        ),
        data=st.data(),
    )
    def step(
        self,
        arrivals: tuple[list[tuple[int, bool]], ...],
        counts: tuple[int, ...],
        crashes: bool,
        fires: str,
        then: str,
        data: st.DataObject,
    ) -> None:
        """Records arrive, a bundle is read, some of what waits fires; then something happens."""
        for partition, records in zip(PARTITIONS, arrivals, strict=True):
            self.append(partition, records)
        self.read_bundle(counts, crashes)
        for key in self.waiting():
            if fires == "all":
                self.fire(key)
            elif fires == "some" and data.draw(st.booleans()):
                self.fire(key, data.draw(st.sampled_from([None, None, None, *CRASHES, FREEZES])))
        if then == "restart":
            self.new_epoch()
        elif then == "restore":
            self.restore(data.draw(st.integers(0, len(self.checkpoints) - 1)))
        elif then == "retention passes":
            self.retention_passes()
        elif then == "old files go":
            old = [path for path in self.visible() if path.name in self.snapshot_files]
            if old:
                self.delete(data.draw(st.lists(st.sampled_from(old), unique=True)))
        elif then == "catch up":
            self.catch_up()
        elif then == "a zombie wakes up" and self.zombies:
            zombie = data.draw(st.sampled_from(self.zombies))
            self.read_into(zombie, data.draw(st.tuples(*[st.integers(0, 3) for _ in PARTITIONS])))
            for key in self.waiting(zombie):
                if data.draw(st.booleans()):
                    self.fire_zombie(zombie, key)
        elif then == "a worker of a dead epoch wakes up" and self.dead:
            dead = data.draw(st.sampled_from(self.dead))
            self.wake(dead, data.draw(st.tuples(*[st.integers(0, 3) for _ in PARTITIONS])))

        elif then == "a frozen worker publishes" and self.frozen:
            path = self.publish_late(data.draw(st.integers(0, len(self.frozen) - 1)))
            if data.draw(st.booleans()):
                self.new_epoch()
            else:
                self.look()
            if path.exists():  # all of its records may be in files that the user has deleted
                self.deleted.difference_update(offsets_in(self.local(str(path))))

    def read_bundle(self, counts: tuple[int, ...], crashes: bool = False) -> None:
        """A bundle is read and goes to parts; where it crashes, the parts are orphans."""
        state = copy.deepcopy(self.state)
        self.read_into(state, counts)
        if not crashes:
            self.commit(state)

    def wake(self, dead: DeadEpoch, counts: tuple[int, ...]) -> None:
        """A worker of an epoch that is over reads and fires; the present one looks at its files."""
        with mock.patch.multiple(self, sinks=dead.sinks, covered=dead.covered):
            self.read_into(dead.state, counts)
            for key in self.waiting(dead.state):
                with suppress(PartMissingError):  # it was swept
                    self.fire_in(dead.state, key)
        self.look()

    def read_into(self, state: JobState, counts: tuple[int, ...]) -> None:
        records: list[KafkaRecord] = []
        for partition, count in zip(PARTITIONS, counts, strict=True):
            start = state.positions[partition]
            records += self.log[partition][start : start + count]
            state.positions[partition] = min(start + count, len(self.log[partition]))
        batches, letters = VALIDATOR.validate(
            without_covered(batch_of_records(records), self.covered)
        )
        pieces = [
            (piece, event_us // 1_000_000)
            for batch in batches
            for event_us, piece in cut_by_window(batch, WINDOW_SECONDS)
        ]
        stamped = [(letter, letter.timestamp // 1000) for letter in letters]
        for kind, elements in (("rows", pieces), ("letters", stamped)):
            for key, part in self.sinks[kind].parts_of(elements):
                of_key = state.keys[kind, key]
                self.sinks[kind].assemble.process(
                    (key, part),
                    parts=of_key.parts,
                    waiting_since=of_key.waiting_since,
                    closed=of_key.closed,
                    close=Timer(),
                    due=Timer(),
                    end=Timer(),
                )

    def commit(self, state: JobState) -> None:
        """A bundle is done; the runner may take a checkpoint of it, and come back to that."""
        self.state = state
        self.checkpoints.append(copy.deepcopy(state))

    def waiting(self, state: JobState | None = None) -> list[tuple[str, str]]:
        keys = (state or self.state).keys
        return sorted(key for key, of_key in keys.items() if of_key.parts.items)

    def fire(self, key: tuple[str, str], crash: str | None = None) -> None:
        state = copy.deepcopy(self.state)
        try:
            with freezing(self.freeze) if crash == FREEZES else crashing(crash):
                self.fire_in(state, key)
        except Crash:
            return
        self.commit(state)  # also where all rows were adopted, and no such point was reached

    def fire_in(self, state: JobState, key: tuple[str, str]) -> None:
        of_key = state.keys[key]
        written = self.sinks[key[0]].assemble.fire_pane(
            parts=of_key.parts,
            pane=of_key.pane,
            adopted=of_key.adopted,
            waiting_since=of_key.waiting_since,
            end=Timer(),
        )
        for file in list(written):
            assert file.rows == len(offsets_in(self.local(file.path)))
        self.sinks[key[0]].assemble.finish_bundle()

    def local(self, path: str) -> Path:
        """Where the tests see a file that was written."""
        return Path(path)

    def fire_zombie(self, zombie: JobState, key: tuple[str, str]) -> None:
        """A worker of a timeline that is no more fires; a part that was swept ends it."""
        try:
            self.fire_in(zombie, key)
        except PartMissingError:
            self.zombies.remove(zombie)

    def freeze(self, layout: FileLayout, target: OutputFile, temporary: Path) -> None:
        """A worker freezes with a finished file that has no name yet."""
        kept = Path(self.directory.name, "frozen", temporary.name)  # has a random name
        kept.parent.mkdir(exist_ok=True)
        temporary.rename(kept)
        self.frozen.append((layout, target, kept))

    def publish_late(self, number: int) -> StoredPath:
        """It wakes up, and gives the file its name; return its path."""
        layout, target, temporary = self.frozen.pop(number)
        publish(layout, target, temporary)
        return layout.path_of(target)

    def look(self) -> None:
        """The supervisor looks for files; what is from a dead epoch is removed."""
        self.ledger.refresh()
        self.ledger.remove_strays()

    def restore(self, number: int) -> None:
        """The runner is set back; later checkpoints are of a timeline that is no more."""
        self.zombies.append(copy.deepcopy(self.state))
        restored = self.checkpoints[number]
        del self.checkpoints[number:]
        self.commit(restored)

    def retention_passes(self) -> None:
        """So long that no checkpoint is from before; what was cut short was done again by then."""
        for key in self.waiting():
            if any(self.is_retired(key[0], part) for part in self.state.keys[key].parts.items):
                self.fire(key)
        del self.checkpoints[:-1]
        for kind in KINDS:
            self.layout_of(kind, self.epoch).parts().sweep(retention_seconds=-1)

    def delete(self, paths: list[Path]) -> None:
        """The user deletes files of epochs that are over, long after their workers have ended."""
        self.dead.clear()  # or one could take the name of a file that was deleted
        for path in paths:
            self.deleted.update(offsets_in(path))
            path.unlink()

    def visible(self) -> list[Path]:
        return sorted(path for root in self.roots.values() for path in visible_paths(root))

    def landed(self) -> collections.Counter[Offset]:
        """How often each record is in the files."""
        return collections.Counter(offset for path in self.visible() for offset in offsets_in(path))

    @invariant()
    def no_record_is_ever_doubled(self) -> None:
        landed = self.landed()
        assert {offset for offset, times in landed.items() if times > 1} == set()
        assert not self.deleted & set(landed)

    @invariant()
    def what_has_landed_stays(self) -> None:
        """Or a run would say that it has caught up, of files that are then taken away."""
        landed = set(self.landed())
        assert self.ever_landed <= landed | self.deleted
        self.ever_landed |= landed

    def assert_files_say_what_they_hold(self) -> None:
        ledger = self.ledger_of()
        ledger.remove_strays()
        landed = {*self.landed(), *self.deleted}
        for partition in PARTITIONS:
            held = {offset for p, offset in landed if p == partition}
            end = len(self.log[partition])
            assert set(range(end)) - held == set(ledger.covered.gaps(TOPIC, partition, 0, end))

    def catch_up(self) -> None:
        """Everything is read and every pane fires: then every record is there, and once."""
        while any(self.state.positions[p] < len(self.log[p]) for p in PARTITIONS):
            self.read_bundle((4,) * len(PARTITIONS))
        for key in self.waiting():
            self.fire(key)
        expected = {(p, record.offset) for p in PARTITIONS for record in self.log[p]}
        assert self.landed() == collections.Counter(expected - self.deleted)
        self.assert_files_say_what_they_hold()


def offsets_in(path: Path) -> list[Offset]:
    """What is in a file by its rows or lines, and not by its footer."""
    if path.suffix == PARQUET_SUFFIX:
        columns = ["kafka_partition", "kafka_offset"]
        rows = pyarrow.parquet.read_table(path, columns=columns, partitioning=None).to_pydict()
        return list(zip(*(rows[name] for name in columns), strict=True))
    sources = [orjson.loads(line)["source"] for line in path.read_bytes().splitlines()]
    return [(source["partition"], source["offset"]) for source in sources]


@contextmanager
def freezing(freeze: Callable[[FileLayout, OutputFile, Path], None]) -> Iterator[None]:
    """Lets the worker freeze before it gives a file its name; its bundle is done by another one."""

    def freeze_and_leave(layout: FileLayout, target: OutputFile, temporary: Path) -> bool:
        freeze(layout, target, temporary)
        raise Crash

    with mock.patch.object(windowed_files, "publish", freeze_and_leave):
        yield


@contextmanager
def crashing(where: str | None) -> Iterator[None]:
    """Lets the process die at a point of a pane's firing."""
    retire = LocalParts.retire

    def die(*_arguments: Any, **_options: Any) -> Any:
        raise Crash

    def publish_and_die(*arguments: Any, **options: Any) -> Any:
        publish(*arguments, **options)
        raise Crash

    def retire_one_and_die(self: LocalParts, parts: Any) -> None:
        retire(self, list(parts)[:1])
        raise Crash

    points: dict[str, tuple[Any, str, Any]] = {
        "before publish": (windowed_files, "publish", die),
        "in publish": (os, "link", die),
        "behind publish": (windowed_files, "publish", publish_and_die),
        "in retire": (LocalParts, "retire", retire_one_and_die),
    }
    with mock.patch.object(*points[where]) if where else nullcontext():
        yield


Epochs.TestCase.settings = settings(max_examples=30, stateful_step_count=20)
TestEpochs = Epochs.TestCase


class StoredEpochs(Epochs):
    """The same in an object store. Its server keeps objects as files, at which the tests look."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"epochs-{uuid.uuid4().hex[:12]}"
        self.roots = {kind: self.store.directory / BUCKET / self.prefix / kind for kind in KINDS}

    def url_of(self, kind: str) -> str:
        return self.store.url(f"{self.prefix}/{kind}")

    def layout_of(self, kind: str, epoch: str) -> FileLayout:
        return FileLayout(self.url_of(kind), epoch)

    def ledger_of(self) -> Ledger:
        rows, letters = (stored_path(self.url_of(kind), StorageConfig()) for kind in KINDS)
        return load_ledger(rows, letters)

    def is_retired(self, kind: str, part: PartRef) -> bool:
        if part.inline is not None:
            return False
        done = (self.roots[kind] / "_tmp" / self.epoch / "done").glob("*.json")
        return any(part.path in orjson.loads(note.read_bytes()) for note in done)

    def local(self, path: str) -> Path:
        return self.store.directory / BUCKET / path.removeprefix(self.store.url(""))


def test_epochs_in_an_object_store(
    s3_server: Store, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some parts travel in their references, and others are objects."""
    monkeypatch.setattr(parts, "MAX_INLINE_BYTES", 1_500)
    monkeypatch.setattr(StoredEpochs, "store", s3_server, raising=False)
    limits = settings(max_examples=10, stateful_step_count=12)
    run_state_machine_as_test(StoredEpochs, settings=limits)


@pytest.fixture
def epochs() -> Iterator[Epochs]:
    """The machine, for the interleavings that matter most."""
    machine = Epochs()
    machine.new_epoch()
    yield machine
    machine.no_record_is_ever_doubled()
    machine.teardown()


def test_panes_that_fire_again_with_other_records(epochs: Epochs) -> None:
    """Two panes of one record each, then, after a restore, one of both: both files have them."""
    epochs.append(0, [(0, True), (1, True)])
    for _ in range(2):
        epochs.read_bundle((1, 0))
        (key,) = epochs.waiting()
        epochs.fire(key)
    assert len(epochs.visible()) == 2
    epochs.restore(0)
    epochs.read_bundle((2, 0))
    epochs.fire(key)
    assert len(epochs.visible()) == 2


def test_a_restored_timeline_takes_nothing_away(epochs: Epochs) -> None:
    """It fires the first pane again, before it has read what the second had."""
    epochs.append(0, [(0, True), (1, True)])
    for _ in range(2):
        epochs.read_bundle((1, 0))
        (key,) = epochs.waiting()
        epochs.fire(key)
    epochs.what_has_landed_stays()
    epochs.restore(0)
    epochs.read_bundle((1, 0))
    epochs.fire(key)
    epochs.what_has_landed_stays()


def test_a_zombie_that_fires_before_its_successor(epochs: Epochs) -> None:
    """It has the first record, and its successor both: the successor writes the other one."""
    epochs.append(0, [(0, True), (1, True)])
    epochs.read_bundle((1, 0))
    (key,) = epochs.waiting()
    epochs.restore(0)
    (zombie,) = epochs.zombies
    epochs.read_bundle((2, 0))
    epochs.fire_zombie(zombie, key)
    epochs.fire(key)
    assert [len(offsets_in(path)) for path in epochs.visible()] == [1, 1]


def test_a_zombie_that_fires_after_its_successor(epochs: Epochs) -> None:
    epochs.append(0, [(0, True), (1, True), (2, True)])
    epochs.read_bundle((2, 0))
    (key,) = epochs.waiting()
    epochs.restore(0)
    (zombie,) = epochs.zombies
    epochs.read_bundle((1, 0))
    epochs.fire(key)
    epochs.fire_zombie(zombie, key)
    epochs.no_record_is_ever_doubled()
    epochs.read_bundle((2, 0))
    epochs.fire(key)


def test_a_restart_behind_a_window_that_fired_before_an_earlier_offset(epochs: Epochs) -> None:
    """The prefix ends at the one that waited, and the one behind it must be skipped."""
    epochs.append(0, [(0, True), (11, True), (0, True)])
    epochs.read_bundle((3, 0))
    _, later_window = epochs.waiting()
    epochs.fire(later_window)
    epochs.new_epoch()
    assert epochs.state.positions[0] == 0
    assert [*epochs.covered.partitions()] == [(TOPIC, 0)]


@pytest.mark.parametrize("crash", CRASHES)
def test_a_pane_that_crashed_fires_again(epochs: Epochs, crash: str) -> None:
    epochs.append(0, [(0, True), (1, True)])
    for _ in range(2):
        epochs.read_bundle((1, 0))
    (key,) = epochs.waiting()
    epochs.fire(key, crash)
    assert epochs.waiting() == [key]
    epochs.no_record_is_ever_doubled()


@pytest.mark.parametrize("then", ["a look", "a start"])
@pytest.mark.parametrize("lands", ["first", "last"])
def test_a_worker_of_a_dead_epoch_that_publishes_late(
    epochs: Epochs, lands: str, then: str
) -> None:
    """Whether the present epoch has landed these records or not, its file is a stray."""
    epochs.append(0, [(0, True), (1, True)])
    epochs.read_bundle((2, 0))
    (key,) = epochs.waiting()
    epochs.fire(key, FREEZES)
    epochs.new_epoch()
    if lands == "first":
        epochs.read_bundle((2, 0))
        epochs.fire(key)
        epochs.look()
    epochs.publish_late(0)
    if then == "a look":
        epochs.look()
    else:
        epochs.new_epoch()
    assert len(epochs.visible()) == (1 if lands == "first" else 0)
    epochs.no_record_is_ever_doubled()
    epochs.catch_up()


def test_a_worker_of_the_present_epoch_that_publishes_late(epochs: Epochs) -> None:
    """It has the name before its successor, which adopts the file."""
    epochs.append(0, [(0, True), (1, True)])
    epochs.read_bundle((1, 0))
    (key,) = epochs.waiting()
    epochs.fire(key, FREEZES)
    epochs.read_bundle((1, 0))
    epochs.publish_late(0)
    epochs.look()
    epochs.fire(key)
    assert [len(offsets_in(path)) for path in epochs.visible()] == [1, 1]
