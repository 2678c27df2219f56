"""A flag that names where files are: a directory or a URL, and one line for everything else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.places import check_place, path_of, place_of
from beam_pipeline.storage import urls
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.paths import ObjectPath


@pytest.mark.parametrize(
    "text",
    [
        "data/output",
        "/data/output",
        "a:b/c",
        "../out",
        "s3",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/a/b/",
        "gs://bucket/a=1",
        "az://container/a b",
    ],
)
def test_what_a_place_may_be(text: str) -> None:
    check_place("--output_dir", text)


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "give a directory"),
        ("s3:/bucket", "two slashes"),
        ("s3:bucket/a", "two slashes"),
        ("GS:/bucket", "two slashes"),
        ("S3://bucket/a", "write s3://bucket/a"),
        ("s3a://bucket/a", "write s3://bucket/a"),
        ("gcs://bucket/a", "write gs://bucket/a"),
        ("abfss://container/a", "write az://container/a"),
        ("hdfs://name/a", "no such kind of storage; give a directory, or s3://BUCKET/PREFIX"),
        ("https://bucket.example.com/a", "no such kind of storage"),
        ("file:///data/out", "give the directory alone, /data/out"),
        ("s3://", "the bucket is missing; give s3://BUCKET/PREFIX"),
        ("s3:///a", "the bucket is missing"),
        ("az:///a", "the container is missing; give az://CONTAINER/PREFIX"),
        ("s3://bucket/a/../b", "no .."),
        ("s3://bucket/./b", "leave them out"),
        ("s3://bucket//b", "no empty name"),
        ("s3://bucket/a?region=eu-west-1", "--storage_config"),
        ("s3://bucket/a#b", "--storage_config"),
    ],
)
def test_what_a_place_may_not_be(text: str, remedy: str) -> None:
    with pytest.raises(UsageError) as refusal:
        check_place("--output_dir", text)
    line = str(refusal.value)
    assert line.startswith(f"--output_dir={text}" if text else "--output_dir is empty")
    assert remedy in line
    assert "\n" not in line


@pytest.mark.parametrize("text", ["s3://KEY:s3cret@bucket/a", "s3://KEY@bucket", "s3://KEY:s3cret"])
def test_credentials_in_a_url_are_refused_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        check_place("--dead_letter_dir", text)
    line = str(refusal.value)
    assert line.startswith("--dead_letter_dir=s3://…: ")
    assert "environment, profile" in line
    assert "KEY" not in line
    assert "s3cret" not in line


def test_a_url_becomes_a_path_that_is_reached_as_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, StorageConfig]] = []

    def open_storage(url: str, config: StorageConfig, **_: Any) -> DirectoryStorage:
        opened.append((url, config))
        return DirectoryStorage(tmp_path)

    monkeypatch.setattr(urls, "open_storage", open_storage)
    config = tmp_path / "store.yaml"
    config.write_text("endpoint: http://127.0.0.1:9000\n")
    args = argparse.Namespace(output_dir="s3://lake/orders/", storage_config=config)
    assert place_of(args, "output_dir") == ObjectPath(DirectoryStorage(tmp_path))
    assert opened == [("s3://lake/orders", StorageConfig(endpoint="http://127.0.0.1:9000"))]


def test_a_directory_needs_no_storage_config(tmp_path: Path) -> None:
    args = argparse.Namespace(path="data/dead", storage_config=tmp_path / "missing.yaml")
    assert path_of(args) == Path("data/dead")


def test_a_word_is_named_as_the_help_names_it() -> None:
    args = argparse.Namespace(path="s3:/bucket", storage_config=None)
    with pytest.raises(UsageError, match=r"^PATH=s3:/bucket: "):
        path_of(args)


@pytest.mark.parametrize(
    ("text", "key"),
    [("s3://lake/a/b.parquet", "a/b.parquet"), ("s3://lake/a/", "a"), ("s3://lake", "")],
)
def test_a_word_may_be_the_url_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str
) -> None:
    opened: list[str] = []

    def open_storage(url: str, config: StorageConfig) -> DirectoryStorage:
        opened.append(url)
        return DirectoryStorage(tmp_path)

    monkeypatch.setattr(urls, "open_storage", open_storage)
    path = path_of(argparse.Namespace(path=text, storage_config=None))
    assert path == ObjectPath(DirectoryStorage(tmp_path), key)
    assert opened == ["s3://lake"]
