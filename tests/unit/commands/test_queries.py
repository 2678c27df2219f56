"""The commands that a demo prints to query what it wrote."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pyarrow.fs
import pytest
from output_trees import OutputTree, sources
from pipeline_settings import settings_of

from beam_pipeline.commands import queries
from beam_pipeline.commands.demo import _next_steps
from beam_pipeline.commands.queries import file_system, query_commands
from beam_pipeline.storage.config import StorageConfig


def test_a_directory_is_queried_by_the_names_of_its_files() -> None:
    settings = settings_of("--output_dir=lake/orders", "--partition_keys=day,h")
    assert query_commands(settings, "kind") == [
        [
            "duckdb",
            "-c",
            "SELECT kind, count(*) FROM read_parquet('lake/orders/day=*/h=*/*.parquet') GROUP BY 1",
        ]
    ]


def test_a_bucket_is_queried_with_its_endpoint_and_no_secret(tmp_path: Path) -> None:
    config = tmp_path / "store.yaml"
    config.write_text("endpoint: http://127.0.0.1:7070\nregion: us-east-1\n")
    flags = ["--output_dir=s3://lake/orders/", f"--storage_config={config}"]
    duckdb, arrow = query_commands(settings_of(*flags), "kind")
    assert duckdb[-1] == (
        "CREATE SECRET (TYPE s3, PROVIDER credential_chain, REGION 'us-east-1', "
        "ENDPOINT '127.0.0.1:7070', URL_STYLE 'path', USE_SSL false); SELECT kind, count(*) FROM "
        "read_parquet('s3://lake/orders/dt=*/hour=*/*.parquet') GROUP BY 1"
    )
    assert arrow[0] == sys.executable
    assert "ds.dataset('lake/orders', filesystem=fs.S3FileSystem(" in arrow[-1]


@pytest.mark.parametrize(
    ("scheme", "config"),
    [
        ("s3", StorageConfig(endpoint="http://127.0.0.1:7070", region="us-east-1")),
        ("s3", StorageConfig(region="us-east-1")),
        ("gs", StorageConfig(endpoint="http://127.0.0.1:7071")),
        ("az", StorageConfig(account="devaccount")),
    ],
)
def test_pyarrow_takes_the_options(scheme: str, config: StorageConfig) -> None:
    made = eval(file_system(scheme, config), {"fs": pyarrow.fs})
    assert isinstance(made, pyarrow.fs.FileSystem)


def test_the_query_counts_the_rows_of_a_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = OutputTree(tmp_path)
    tree.parquet(sources("orders", 0, range(3)))
    tree.parquet(sources("clicks", 0, range(2)))
    hidden = tree.output_dir / "_tmp" / "e1" / "part.parquet"
    hidden.parent.mkdir(parents=True)
    hidden.write_bytes(b"no Parquet file")
    monkeypatch.setattr(queries, "file_system", lambda scheme, config: "fs.LocalFileSystem()")
    settings = settings_of(f"--output_dir=gs://{tree.output_dir}".replace("gs:///", "gs://x/"))
    ((_, _, code),) = query_commands(settings, "kafka_topic")
    exec(code.replace("'x/", "'/"), {})
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "{'kafka_topic': 'clicks', 'count_all': 2}",
        "{'kafka_topic': 'orders', 'count_all': 3}",
    ]


def test_what_a_demo_prints_can_be_copied(tmp_path: Path) -> None:
    config = tmp_path / "store.yaml"
    config.write_text("region: us-east-1\n")
    flags = ["--output_dir=s3://lake/orders", "--dead_letter_dir=s3://lake/dead"]
    settings = settings_of(*flags, f"--storage_config={config}")
    first, *lines = _next_steps(settings).splitlines()
    assert "s3://lake/orders" in first
    words = [shlex.split(line) for line in lines]
    assert words[:2] == query_commands(settings, "event_type")
    assert [line[1] for line in words[2:]] == ["dlq", "report"]
    assert all(f"--storage_config={config}" in line for line in words[2:])
