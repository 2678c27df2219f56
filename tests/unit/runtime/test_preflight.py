"""The checks before a run that need no cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from output_trees import OutputTree
from pipeline_settings import settings_of

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.runtime.preflight import check_dead_letter_suffix, local_checks
from beam_pipeline.storage import urls
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.protocol import Storage


class Bucket(DirectoryStorage):
    """A directory that is known by the URL of a bucket."""

    @property
    def url(self) -> str:
        return f"s3://{str(self.root).partition('/buckets/')[2]}"


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of s3://NAME/PREFIX below NAME/PREFIX."""

    def open_storage(url: str, config: StorageConfig) -> Storage:
        return Bucket(tmp_path / "buckets" / url.removeprefix("s3://"))

    monkeypatch.setattr(urls, "open_storage", open_storage)
    return tmp_path / "buckets"


@pytest.mark.parametrize(
    ("topics", "suffix", "reason"),
    [
        (["orders"], "", "is an input topic itself"),
        (["orders", "orders-b"], "-b", "orders-b is an input topic itself"),
        (["orders"], " x", "is no name for a topic"),
        (["orders"], "/x", "is no name for a topic"),
        (["orders"], "y" * 245, "is no name for a topic"),
        (["orders"], "é", "is no name for a topic"),
    ],
)
def test_a_suffix_that_makes_no_dead_letter_topic_is_refused(
    topics: list[str], suffix: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refusal:
        check_dead_letter_suffix(topics, suffix)
    assert str(refusal.value).startswith("--dead_letter_topic_suffix=")


def test_a_usual_suffix_is_taken() -> None:
    check_dead_letter_suffix(["orders", "clicks"], ".dlq")


def test_a_directory_keeps_its_partition_keys(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    tree.parquet([("orders", 0, 0)])
    same = f"--output_dir={tree.output_dir}"
    (look,) = (check.look for check in local_checks(settings_of(same)) if check.name == "output")
    assert str(tree.output_dir) in look().text
    others = settings_of(same, "--partition_keys=day,hour")
    (look,) = (check.look for check in local_checks(others) if check.name == "output")
    with pytest.raises(UsageError, match=r"has files below dt=…/hour=….*--partition_keys=dt,hour"):
        look()


@pytest.mark.parametrize(
    ("output", "dead", "where"),
    [
        ("x", "x", "is --output_dir"),
        ("x", "x/dead", "lies inside --output_dir"),
        ("x/out", "x", "contains --output_dir"),
        ("x", "link", "is --output_dir"),
        ("x", "link/dead", "lies inside --output_dir"),
        ("x", "x-dead", None),
    ],
)
def test_dead_letters_among_the_parquet_files_are_warned_of(
    tmp_path: Path, output: str, dead: str, where: str | None
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    settings = settings_of(
        f"--output_dir={tmp_path / output}", f"--dead_letter_dir={tmp_path / dead}"
    )
    (look,) = (each.look for each in local_checks(settings) if each.name == "dead letters")
    observation = look()
    assert ("readers of all files" in observation.text) == (where is not None)
    if where is not None:
        assert observation.is_warning
        assert where in observation.text
        assert "give two directories side by side" in observation.text


@pytest.mark.parametrize(
    ("output", "dead", "where"),
    [
        ("s3://lake/x", "s3://lake/x/", "is --output_dir"),
        ("s3://lake/x", "s3://lake/x/dead", "lies inside --output_dir"),
        ("s3://lake/x/out", "s3://lake/x", "contains --output_dir"),
        ("s3://lake", "s3://lake/dead", "lies inside --output_dir"),
        ("s3://lake/x", "s3://lake/x-dead", None),
        ("s3://lake/x", "s3://other/x", None),
        ("s3://lake/x", "dead", None),
        ("out", "s3://lake/x", None),
    ],
)
def test_dead_letters_among_the_objects_of_rows_are_warned_of(
    buckets: Path, output: str, dead: str, where: str | None
) -> None:
    settings = settings_of(f"--output_dir={output}", f"--dead_letter_dir={dead}")
    (look,) = (each.look for each in local_checks(settings) if each.name == "dead letters")
    observation = look()
    assert ("readers of all files" in observation.text) == (where is not None)
    if where is not None:
        assert observation.is_warning
        assert where in observation.text
        assert "give two prefixes side by side" in observation.text


def test_a_bucket_keeps_its_partition_keys_and_is_probed(buckets: Path) -> None:
    tree = OutputTree(buckets / "lake")
    tree.parquet([("orders", 0, 0)])
    settings = settings_of("--output_dir=s3://lake/output")
    (look,) = (check.look for check in local_checks(settings) if check.name == "output")
    assert "honours the conditions" in look().text
    assert not list(tree.output_dir.glob("_ledger/probe-*"))
    others = settings_of("--output_dir=s3://lake/output", "--partition_keys=day,hour")
    (look,) = (check.look for check in local_checks(others) if check.name == "output")
    with pytest.raises(UsageError, match=r"has files below dt=…/hour=….*--partition_keys=dt,hour"):
        look()
    schema = buckets / "schema.json"
    schema.write_text('{"type":"object","properties":{"n":{"type":"string"}}}')
    of_texts = settings_of("--output_dir=s3://lake/output", f"--schema={schema}")
    (columns,) = (check.look for check in local_checks(of_texts) if check.name == "columns")
    with pytest.raises(UsageError, match="does not fit the files in --output_dir"):
        columns()


def test_the_directory_of_parts_is_checked_where_one_is_named(
    buckets: Path, tmp_path: Path
) -> None:
    names = [check.name for check in local_checks(settings_of("--output_dir=s3://lake/x"))]
    assert "parts" not in names
    settings = settings_of("--output_dir=s3://lake/x", f"--parts_dir={tmp_path}/parts")
    (look,) = (check.look for check in local_checks(settings) if check.name == "parts")
    assert f"{tmp_path}/parts" in look().text
    (tmp_path / "file").touch()
    refused = settings_of("--output_dir=s3://lake/x", f"--parts_dir={tmp_path}/file")
    (look,) = (check.look for check in local_checks(refused) if check.name == "parts")
    with pytest.raises(EnvironmentFailure, match=r"^--parts_dir=.*can't be written"):
        look()
