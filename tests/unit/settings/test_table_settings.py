"""The flags of the table and the file of `--catalog`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pipeline_settings import settings_of

from beam_pipeline.errors import UsageError
from beam_pipeline.settings.catalog_file import read_catalog_file
from beam_pipeline.settings.table import TableSettings, partition_column, table_settings


def values(**given: Any) -> dict[str, Any]:
    return {
        "table": "lake.orders",
        "catalog": None,
        "commit_interval": 60.0,
        "output_dir": "data/output",
        **given,
    }


def test_without_the_flag_there_is_no_table() -> None:
    assert table_settings(values(table=None)) is None


def test_a_table_has_one_of_its_dead_letters() -> None:
    table = table_settings(values())
    assert table == TableSettings("lake.orders", None, 60.0)
    assert table is not None
    assert table.letters_name == "lake.orders__dead_letters"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"table": "orders"}, "--table=orders: must be NAMESPACE.NAME"),
        ({"table": "lake.or-ders"}, "--table=lake.or-ders: must be NAMESPACE.NAME"),
        ({"table": "lake.a__dead_letters"}, "--table=lake.a__dead_letters: tables of dead letters"),
        ({"table": None, "catalog": Path("c.yaml")}, "--catalog=c.yaml needs --table="),
        ({"commit_interval": 0.0}, "--commit_interval=0: must be more than 0"),
        ({"output_dir": "s3://b/a"}, "--table=lake.orders needs --catalog=FILE.yaml"),
        ({"output_dir": "az://c/a"}, "--table=lake.orders: files in Azure"),
        ({"output_dir": "data/a#b"}, "--output_dir=data/a#b: a table's files"),
    ],
)
def test_values_that_do_not_serve(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        table_settings(values(**given))
    assert str(caught.value).startswith(words)


def test_a_place_in_azure_is_refused_in_one_line() -> None:
    with pytest.raises(UsageError) as caught:
        table_settings(values(output_dir="az://c/a", catalog="c.yaml"))
    assert str(caught.value) == (
        "--table=lake.orders: files in Azure have no table yet; give a directory, s3://… or gs://… "
        "as --output_dir"
    )


@pytest.mark.parametrize(
    ("flags", "column"),
    [
        ([], "event_time"),
        (["--window_seconds=3600"], "event_time"),
        (["--window_seconds=7"], None),
        (["--window_by=append_time"], None),
        (["--null_values=row"], None),
    ],
)
def test_days_partition_a_table_whose_files_have_one_day(
    flags: list[str], column: str | None
) -> None:
    assert partition_column(settings_of(*flags)) == column


def test_the_values_of_a_catalog_are_shown_to_nobody(tmp_path: Path) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text("type: rest\nuri: https://example.com\ntoken: hush-hush\nssl: true\nn: 5\n")
    properties = read_catalog_file(path)
    assert properties == {
        "type": "rest",
        "uri": "https://example.com",
        "token": "hush-hush",
        "ssl": "true",
        "n": "5",
    }
    assert "hush-hush" not in f"{properties} {properties!r}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected pyiceberg's properties"),
        ("- a", "expected pyiceberg's properties"),
        ("token: [hush-hush", "is not YAML"),
        ("type: rest\nheaders:\n  token: hush-hush", "headers must be a text"),
        ("token: hush-hush", "type is missing"),
    ],
)
def test_a_file_that_does_not_serve(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_catalog_file(path)
    assert str(caught.value).startswith(f"--catalog={path}")
    assert "hush-hush" not in str(caught.value)


def test_the_files_of_a_table_tell_arrow_of_no_dictionaries() -> None:
    settings = settings_of("--input_topics=orders")
    assert settings.ingest_config("e1").stores_arrow_schema
    with_table = dataclasses.replace(settings, has_table=True)
    assert not with_table.ingest_config("e1").stores_arrow_schema
