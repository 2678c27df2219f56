"""A storage is opened by its URL, and nothing else is opened; what a URL needs is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from beam_pipeline.errors import UsageError
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.directory import DirectoryStorage
from beam_pipeline.storage.urls import open_storage

_PACKAGES = {"s3": "boto3", "gs": "google.cloud.storage", "az": "azure.storage.blob"}
_MODULES = {"s3": "s3", "gs": "gcs", "az": "azure"}


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_nothing_is_opened_and_the_url_is_kept(scheme: str) -> None:
    storage = open_storage(f"{scheme}://bucket/events/orders/", StorageConfig())
    assert storage.url == f"{scheme}://bucket/events/orders"
    assert storage.requests == {}
    assert open_storage(f"{scheme}://bucket/", StorageConfig()).url == f"{scheme}://bucket"


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, _PACKAGES[scheme], None)
    monkeypatch.delitem(sys.modules, f"beam_pipeline.storage.{_MODULES[scheme]}", raising=False)
    extra = {"gs": "gcs", "az": "azure"}.get(scheme, scheme)
    with pytest.raises(UsageError) as raised:
        open_storage(f"{scheme}://bucket/events", StorageConfig())
    assert f'pip install "beam-pipeline[{extra}]"' in str(raised.value)
    assert _PACKAGES[scheme] in str(raised.value)


def test_another_kind_of_url_is_refused() -> None:
    with pytest.raises(UsageError, match="ftp://host/a: no such kind of storage"):
        open_storage("ftp://host/a", StorageConfig())


def test_the_children_of_a_directory_beside_one_that_is_gone(tmp_path: Path) -> None:
    for name in "abcdefgh":
        (tmp_path / name).touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")  # as a file removed while it is listed
    children = DirectoryStorage(tmp_path).children()
    assert sorted(str(child[0]) for child in children) == list("abcdefgh")
