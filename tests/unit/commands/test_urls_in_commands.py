"""What commands say and do where the output is in an object store."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from pathlib import Path

import pytest
from pipeline_settings import settings_of

from beam_pipeline import cli
from beam_pipeline.commands.doctor import RED, _finding
from beam_pipeline.commands.flink import _default_savepoint_dir
from beam_pipeline.commands.launch import directories_of, hold_leases
from beam_pipeline.commands.run import _detached_text
from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.flink import preflight as flink_preflight
from beam_pipeline.runtime.flink.job_record import FlinkJobRecord
from beam_pipeline.storage import urls
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.storage.protocol import StorageAwayError


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of s3://lake/PREFIX below PREFIX."""

    def open_storage(url: str, config: object) -> DirectoryStorage:
        return DirectoryStorage(tmp_path / url.removeprefix("s3://lake/"))

    monkeypatch.setattr(urls, "open_storage", open_storage)
    return tmp_path


def test_savepoints_have_a_default_below_a_directory_alone(bucket: Path) -> None:
    assert _default_savepoint_dir(Path("/lake/orders")) == "file:///lake/orders/_flink/savepoints"
    with pytest.raises(UsageError) as refusal:
        _default_savepoint_dir(urls.stored_path("s3://lake/orders", settings_of().storage))
    line = str(refusal.value)
    assert line.startswith("--savepoint_dir is missing: Flink itself writes savepoints")
    assert "give a directory" in line


def test_flink_finds_no_job_in_a_bucket(bucket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flink", "status", "--output_dir=s3://lake/orders"]) == 1
    assert "no Flink job is recorded for it" in capsys.readouterr().err


def test_commands_for_a_detached_job_have_the_storage_config(bucket: Path) -> None:
    config = bucket / "my store.yaml"
    config.write_text("region: eu-central-1\n")
    settings = settings_of("--output_dir=s3://lake/orders", f"--storage_config={config}")
    record = FlinkJobRecord("e1", "localhost:8081", "s3://lake/dead", 60, job_ids=("ab" * 16,))
    record.save(settings.output_path)
    lines = _detached_text(settings).splitlines()[1:]
    assert [shlex.split(line)[2:] for line in lines] == [
        ["--output_dir=s3://lake/orders", f"--storage_config={config}"]
    ] * 3


def test_an_object_store_is_shared_by_all_workers(
    bucket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flink_preflight, "is_this_machine", lambda host: False)
    monkeypatch.setattr(flink_preflight, "file_system_of", lambda path: "ext4")
    settings = settings_of("--output_dir=s3://lake/orders", f"--dead_letter_dir={bucket}")
    directories = directories_of(settings)
    assert isinstance(directories["--output_dir"], ObjectPath)
    (warning,) = flink_preflight.unshared(["worker-1"], directories)
    assert warning.startswith("--dead_letter_dir=")


def test_a_place_that_is_named_twice_is_held_once(tmp_path: Path) -> None:
    with ExitStack() as stack:
        places = {"--output_dir": tmp_path / "x", "--dead_letter_dir": tmp_path / "y" / ".." / "x"}
        assert len(hold_leases(stack, places, print)) == 1


def test_doctor_goes_on_behind_a_store_that_is_away() -> None:
    def look() -> tuple[str, str]:
        raise StorageAwayError("s3://lake: no answer")

    finding = _finding("output", look)
    assert (finding.state, finding.text) == (RED, "s3://lake: no answer")
