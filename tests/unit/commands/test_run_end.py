"""What `run` says at its end."""

from __future__ import annotations

import argparse
from collections import Counter

import pytest

from beam_pipeline.commands.launch import requests_text
from beam_pipeline.commands.run import _coerced_text
from beam_pipeline.runtime.run_status import RunStatus
from beam_pipeline.settings.config import PipelineSettings, pipeline_settings
from beam_pipeline.settings.flags import add_pipeline_flags
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.s3 import S3Storage
from beam_pipeline.storage.urls import open_storage


@pytest.mark.parametrize(
    ("counters", "text"),
    [
        ({"read": 5}, ""),
        ({"coerced.n": 0}, ""),
        ({"coerced.n": 1_200, "coerced.a.b": 1, "valid": 3}, "coerced: a.b 1, n 1,200"),
        ({"coerced.\x1b[1m": 1}, "coerced: \\x1b[1m 1"),
    ],
)
def test_coerced_values_are_named_by_field(counters: dict[str, int], text: str) -> None:
    assert _coerced_text(RunStatus(counters=Counter(counters))) == text


def test_of_many_fields_the_others_are_counted() -> None:
    counters = Counter({f"coerced.f{number:02}": 1 for number in range(25)})
    text = _coerced_text(RunStatus(counters=counters))
    assert text.endswith("f19 1 and 5 more fields")


def settings_of(output_dir: str) -> PipelineSettings:
    parser = argparse.ArgumentParser()
    add_pipeline_flags(parser)
    return pipeline_settings(vars(parser.parse_args([f"--output_dir={output_dir}"])))


def test_requests_of_workers_and_of_the_run_are_one_sum() -> None:
    settings = settings_of("s3://lake-of-requests/orders")
    storage = open_storage(settings.output_dir, StorageConfig())
    assert isinstance(storage, S3Storage)
    storage._count("LIST")
    storage._count("PUT")
    status = RunStatus(counters=Counter({"storage.PUT": 1_200, "storage.GET": 3, "read": 5}))
    assert requests_text(status, settings) == (
        "requests to the object store: GET 3, LIST 1, PUT 1,201"
    )


def test_a_directory_takes_no_requests() -> None:
    assert requests_text(RunStatus(), settings_of("data/output")) is None
