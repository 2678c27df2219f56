"""Settings from flags, environment and file, on the real command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from beam_pipeline.settings.sources import variable_of

ROOT = Path(__file__).parents[3]


def cli(words: list[str], directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {variable_of(name): text for name, text in environment.items()}
    return subprocess.run(
        [sys.executable, "-m", "beam_pipeline", *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_real_command_line_says_who_won(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(
        "kafka_bootstrap_servers: broker:9092\n"
        "input_topics: [orders, refunds]\n"
        "window_seconds: 1\n"
        "num_shards: 1\n"
        "transform: [a.b:C, d:e]\n"
        "run:\n  late_pane_seconds: 9\n"
        "demo:\n  late_pane_seconds: 8\n"
        "produce: {topic: orders}\n"
    )
    done = cli(
        ["--config=my.yaml", "--print_config", "--window_seconds=3"],
        tmp_path,
        window_seconds="2",
        num_shards="2",
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split(":")[0]: re.sub(" +", " ", line) for line in done.stdout.splitlines()}
    assert lines["window_seconds"] == "window_seconds: 3 # flag"
    assert lines["num_shards"] == "num_shards: 2 # environment BEAM_PIPELINE_NUM_SHARDS"
    assert lines["input_topics"] == "input_topics: orders,refunds # file my.yaml, line 2"
    assert lines["transform"] == "transform: [a.b:C, d:e] # file my.yaml, line 5"
    assert lines["late_pane_seconds"] == "late_pane_seconds: 9 # file my.yaml, line 7"
    assert lines["parquet_codec"] == "parquet_codec: zstd # default"
    assert "config" not in lines

    (tmp_path / "again.yaml").write_text(done.stdout)
    again = cli(["run", "--config=again.yaml", "--print_config"], tmp_path)
    assert yaml.safe_load(again.stdout) == yaml.safe_load(done.stdout)

    demo = cli(["demo", "--config=my.yaml", "--print_config"], tmp_path, seed="7")
    assert yaml.safe_load(demo.stdout).items() >= {"late_pane_seconds": 8, "seed": 7}.items()


def test_a_wrong_value_is_one_line_on_the_real_command_line(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("kafka_bootstrap_servers: h:1\nwindow_seconds: 0\n")
    done = cli(["run", "--config=my.yaml", "--input_topics=a"], tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "beam-pipeline: --window_seconds=0: must be 1 or more "
        "(window_seconds is from file my.yaml, line 2)\n"
    )
