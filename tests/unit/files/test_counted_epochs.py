"""Each epoch notes the files that it counts; what dead epochs add later are strays."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from output_trees import OutputTree, sources

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.files.epochs import EPOCHS, abort_uploads, begun_epochs, read_counted_files
from beam_pipeline.files.ledger import SNAPSHOT, Ledger, LedgerTakenError, load_ledger
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.protocol import Content, Upload

COMPACTION = "20261125T000000Zc0001"


@dataclass
class Place:
    """An output tree, and how its ledger reaches it."""

    tree: OutputTree
    in_store: bool
    epoch: str = "epoch0"

    def root(self, directory: Path) -> StoredPath:
        return ObjectPath(DirectoryStorage(directory)) if self.in_store else directory

    def load(self) -> Ledger:
        return load_ledger(self.root(self.tree.output_dir), self.root(self.tree.dead_letter_dir))

    def begin(self, epoch: str) -> Ledger:
        """Start an epoch, whose files `parquet` and `letters` write from then on."""
        ledger = self.load()
        ledger.remove_strays()
        ledger.begin_epoch(epoch)
        self.epoch = self.tree.epoch = epoch
        return ledger

    def write(self, offsets: range, epoch: str | None = None) -> Path:
        self.tree.epoch = epoch or self.epoch
        return self.tree.parquet(sources("orders", 0, offsets))

    def missing(self, ledger: Ledger, end: int) -> int:
        return ledger.covered.missing("orders", 0, 0, end)

    def begun(self) -> set[str]:
        return begun_epochs(self.root(self.tree.output_dir))


@pytest.fixture(params=["directory", "object store"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    return Place(OutputTree(tmp_path), request.param == "object store")


def test_the_list_has_the_files_before_the_epoch_and_the_snapshot_names_it(place: Place) -> None:
    old = place.write(range(3))
    place.begin("epoch1")
    new = place.write(range(3, 5))
    snapshot = json.loads((place.tree.output_dir / SNAPSHOT).read_bytes())
    assert (snapshot["version"], snapshot["epoch"], snapshot["files"]) == (2, "epoch1", [])
    counted = read_counted_files(place.root(place.tree.output_dir), "epoch1")
    assert (counted.files, counted.dead) == (frozenset({old.name}), frozenset())
    ledger = place.begin("epoch2")
    assert place.missing(ledger, 5) == 0
    counted = read_counted_files(place.root(place.tree.output_dir), "epoch2")
    assert counted.files == {old.name, new.name}
    assert counted.dead == {"epoch1"}
    assert place.begun() == {"epoch2"}, "the lists before are removed"


def test_known_files_are_not_read_again_after_a_start(place: Place) -> None:
    old = place.write(range(3))
    place.begin("epoch1")
    old.write_bytes(b"what was read once is not read again")
    assert place.load().files == {old.name}


def test_a_file_of_a_dead_epoch_that_comes_late_is_a_stray(place: Place) -> None:
    place.begin("epoch1")
    ledger = place.begin("epoch2")
    late = place.write(range(3), epoch="epoch1")
    assert ledger.refresh() == []
    assert place.missing(ledger, 3) == 3
    assert late.exists(), "a refresh alone removes nothing: readers load ledgers too"
    assert ledger.remove_strays() == {"epoch1": 1}
    assert not late.exists()
    assert ledger.remove_strays() == {}


def test_a_stray_that_was_not_removed_is_not_counted_by_the_next_epoch(place: Place) -> None:
    place.begin("epoch1")
    ledger = place.begin("epoch2")
    ledger.refresh()
    place.write(range(3), epoch="epoch1")
    kept = place.write(range(3), epoch="epoch2")
    ledger = place.load()
    assert ledger.files == {kept.name}
    assert ledger.remove_strays() == {"epoch1": 1}


def test_a_stray_of_two_epochs_ago_whose_rows_have_landed_is_removed(place: Place) -> None:
    place.begin("epoch1")
    place.begin("epoch2")
    kept = place.write(range(3))
    ledger = place.begin("epoch3")
    late = place.write(range(3), epoch="epoch1")
    late = late.rename(kept.with_name(late.name))
    ledger.refresh()
    assert ledger.remove_strays() == {"epoch1": 1}
    assert not late.exists()
    assert kept.exists()


def test_a_stray_that_shares_one_record_with_a_file_is_removed(place: Place) -> None:
    """Files that were counted share none, so this one never was."""
    place.begin("epoch1")
    place.begin("epoch2")
    gone, kept = place.write(range(2)), place.write(range(2, 3))
    place.begin("epoch3")
    gone.unlink()
    late = place.write(range(3), epoch="epoch1")
    late = late.rename(kept.with_name(late.name))
    place.begin("epoch4")
    assert not late.exists()
    assert kept.exists()


def test_a_file_that_its_user_moved_away_and_back_is_no_stray(place: Place, tmp_path: Path) -> None:
    place.begin("epoch1")
    old = place.write(range(3))
    place.begin("epoch2")
    away = old.rename(tmp_path / old.name)
    ledger = place.begin("epoch3")
    away.rename(old)
    ledger.refresh()
    assert ledger.remove_strays() == {}
    assert old.exists()
    assert place.missing(ledger, 3) == 0
    place.begin("epoch4")
    assert old.exists()


def test_the_present_epochs_own_files_are_counted_whenever_they_come(place: Place) -> None:
    """Those of a timeline that was restored, and of a zombie of the same epoch, among them."""
    place.begin("epoch1")
    ledger = place.begin("epoch2")
    first = place.write(range(3))
    assert [path.name for path in ledger.refresh()] == [first.name]
    restored = place.load()  # the job is restored from a checkpoint
    restored.continue_epoch("epoch2")
    second = place.write(range(3, 6))
    assert [path.name for path in restored.refresh()] == [second.name]
    assert (place.missing(restored, 6), restored.strays) == (0, {})


def test_an_epoch_that_is_over_can_not_be_continued(place: Place) -> None:
    place.begin("epoch1")
    ledger = place.begin("epoch2")
    with pytest.raises(EnvironmentFailure, match="epoch1 can't be restored: epoch epoch2 has begu"):
        ledger.continue_epoch("epoch1")


def test_a_file_of_compaction_or_of_a_pipeline_of_ones_own_is_no_stray(place: Place) -> None:
    place.begin("epoch1")
    place.write(range(3))
    place.begin("epoch2")
    sources_of_merged = [place.write(range(3, 6)), place.write(range(6, 9))]
    for path in sources_of_merged:
        path.unlink()
    merged = place.write(range(3, 9), epoch=COMPACTION)
    own = place.write(range(9, 12), epoch="mine")
    ledger = place.begin("epoch3")
    assert {merged.name, own.name} <= ledger.files
    later = [place.write(range(12, 15), epoch=COMPACTION), place.write(range(15, 18), epoch="mine")]
    assert {path.name for path in ledger.refresh()} == {path.name for path in later}
    assert (place.missing(ledger, 18), ledger.strays) == (0, {})


def test_a_file_without_offsets_is_no_stray(place: Place) -> None:
    place.begin("epoch1")
    ledger = place.begin("epoch2")
    place.tree.epoch = "epoch1"
    path = place.tree.parquet([], claim=[])
    ledger.refresh()
    assert ledger.remove_strays() == {}
    assert path.exists()


@pytest.mark.parametrize("again", ["epoch3", "epoch1"])
def test_a_crash_between_the_list_and_the_snapshot_leaves_the_state_before(
    place: Place, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """No job was started then, so what the epoch before adds is landed by nobody else."""
    place.begin("epoch1")
    ledger = place.load()

    def die(_present: set[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "_save", die)
    with pytest.raises(KeyboardInterrupt):
        ledger.begin_epoch("epoch2")
    late = place.write(range(3), epoch="epoch1")
    if again == "epoch1":  # a savepoint of it
        place.load().continue_epoch("epoch1")
        return
    ledger = place.begin(again)
    assert late.name in ledger.files
    counted = read_counted_files(place.root(place.tree.output_dir), again)
    assert counted.dead == {"epoch1", "epoch2"}
    assert place.begun() == {again}


def test_of_two_that_begin_an_epoch_at_once_the_second_stops(place: Place) -> None:
    place.begin("epoch1")
    frozen = place.load()
    place.begin("epoch2")
    with pytest.raises(LedgerTakenError, match="another pipeline took the lease over"):
        frozen.begin_epoch("epoch3")
    snapshot = json.loads((place.tree.output_dir / SNAPSHOT).read_bytes())
    assert snapshot["epoch"] == "epoch2"
    assert place.begin("epoch4")
    assert place.begun() == {"epoch4"}


def test_a_first_epoch_that_another_one_has_begun_too_stops(place: Place) -> None:
    frozen = place.load()
    place.begin("epoch1")
    with pytest.raises(LedgerTakenError):
        frozen.begin_epoch("epoch2")


@dataclass(frozen=True)
class ForgetfulStorage(DirectoryStorage):
    """Loses the answers to what it has done."""

    def put_if_match(self, key: str, content: bytes, version: str | None) -> str | None:
        super().put_if_match(key, content, version)
        return None


def test_a_lost_answer_is_not_another_run(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    root = ObjectPath(ForgetfulStorage(tree.output_dir))
    for epoch in ("epoch1", "epoch2"):
        load_ledger(root, tree.dead_letter_dir).begin_epoch(epoch)
    assert begun_epochs(tree.output_dir) == {"epoch2"}


def test_a_save_at_the_end_of_a_run_lets_its_files_be_deleted(place: Place) -> None:
    place.begin("epoch1")
    landed, kept = place.write(range(3)), place.write(range(3, 5))
    place.load().save()
    landed.unlink()
    kept.write_bytes(b"what was read once is not read again")
    ledger = place.load()
    assert place.missing(ledger, 5) == 0
    ledger.continue_epoch("epoch1")  # it is not over yet
    ledger = place.begin("epoch2")
    assert read_counted_files(place.root(place.tree.output_dir), "epoch2").files == {kept.name}


def test_a_snapshot_of_an_older_version_is_read(place: Place) -> None:
    old = place.write(range(3))
    document = {"version": 1, "covered": place.load().covered.to_json(), "files": [old.name]}
    path = place.tree.output_dir / SNAPSHOT
    path.parent.mkdir()
    path.write_text(json.dumps({**document, "topic_ids": {"orders": "id-1"}}))
    old.write_bytes(b"what was read once is not read again")
    late = place.write(range(3, 5))
    ledger = place.begin("epoch1")
    assert (place.missing(ledger, 5), ledger.topic_ids) == (0, {"orders": "id-1"})
    assert read_counted_files(place.root(place.tree.output_dir), "epoch1").files == {
        old.name,
        late.name,
    }


def test_the_dead_are_known_after_the_snapshot_was_removed(place: Place) -> None:
    for epoch in ("epoch1", "epoch2"):
        place.begin(epoch)
    (place.tree.output_dir / SNAPSHOT).unlink()
    place.begin("epoch3")
    counted = read_counted_files(place.root(place.tree.output_dir), "epoch3")
    assert counted.dead == {"epoch1", "epoch2"}


@pytest.mark.parametrize("damage", [None, b"", b"[]", b'{"version": 9}'])
def test_a_list_that_is_gone_or_damaged_is_one_line(place: Place, damage: bytes | None) -> None:
    place.begin("epoch1")
    path = place.tree.output_dir / EPOCHS / "epoch1.json"
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage)
    with pytest.raises(EnvironmentFailure, match="to have the ledger made anew") as failed:
        place.load()
    assert "epoch1" in str(failed.value)
    assert "\n" not in str(failed.value)
    (place.tree.output_dir / SNAPSHOT).unlink()
    path.unlink(missing_ok=True)
    place.begin("epoch2")


@dataclass(frozen=True)
class MovingStorage(DirectoryStorage):
    """Another run begins its epoch after each read of a snapshot."""

    then: list[str] = field(default_factory=list, compare=False)

    def read(self, key: str) -> Content:
        content = super().read(key)
        if key == str(SNAPSHOT) and self.then:
            epoch = self.then.pop(0)
            load_ledger(self.root, self.root.parent / "dead").begin_epoch(epoch)
        return content


def test_a_run_that_goes_on_while_its_ledger_is_read_is_no_damage(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    path = tree.parquet(sources("orders", 0, range(3)))
    load_ledger(tree.output_dir, tree.dead_letter_dir).begin_epoch("epoch1")
    storage = MovingStorage(tree.output_dir, then=["epoch2", "epoch3"])
    ledger = load_ledger(ObjectPath(storage), tree.dead_letter_dir)
    assert ledger.files == {path.name}


@dataclass(frozen=True)
class StorageWithUploads(DirectoryStorage):
    """A directory in which uploads have begun."""

    begun: list[str] = field(default_factory=list, compare=False)

    def uploads(self, prefix: str = "") -> Iterator[Upload]:
        for key in self.begun:
            if key.startswith(prefix):
                yield Upload(key, "1", 0.0)

    def abort_upload(self, upload: Upload) -> None:
        self.begun.remove(upload.key)


def test_uploads_of_dead_epochs_alone_are_aborted(tmp_path: Path) -> None:
    hour, name = "dt=2026-11-23/hour=12", "orders-20261123T120000Z-20261123T120010Z-s0-e{}-p0.{}"
    dead = [
        f"{hour}/{name.format('epoch1', 'parquet')}",
        f"{hour}/{name.format('epoch2', 'jsonl')}",
        "_tmp/epoch1/5e.arrow",
    ]
    others = [
        f"{hour}/{name.format('epoch3', 'parquet')}",
        f"{hour}/{name.format(COMPACTION, 'parquet')}",
        "_tmp/epoch3/5e.arrow",
        "_tmp/epoch1",
        "by-hand.parquet",
    ]
    storage = StorageWithUploads(tmp_path, begun=[*others, *dead])
    assert abort_uploads(ObjectPath(storage), {"epoch1", "epoch2"}) == 3
    assert storage.begun == others
