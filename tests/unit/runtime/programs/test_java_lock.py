"""The lock files of Java's jars."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import java_lock_path
from beam_pipeline.runtime.programs.java import read_lock


@pytest.mark.parametrize(
    "line",
    [
        "com.example:plain:1.0",
        "plain 00",
        "a:b:c:d:e " + "0" * 64,
        "a:b:c " + "g" * 64,
        "a:b " + "0" * 64,
    ],
)
def test_a_broken_lock_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.lock"
    path.write_text(f"# comment\n{line}\n", encoding="utf-8")
    with pytest.raises(EnvironmentFailure, match=r"broken\.lock, line 2: expected group:artifact"):
        read_lock(path)


@pytest.mark.parametrize(
    ("name", "main_jar"),
    [
        ("expansion", "org.apache.beam:beam-sdks-java-io-kafka:2.73.0"),
        ("kafka", "org.apache.kafka:kafka_2.13:4.2.1"),
        ("flink", "org.apache.beam:beam-runners-flink-1.19:2.70.0"),
    ],
)
def test_the_committed_locks(name: str, main_jar: str) -> None:
    jars = read_lock(java_lock_path(name))
    coordinates = [jar.coordinates for jar in jars]
    assert main_jar in coordinates
    assert coordinates == sorted(set(coordinates))
    assert len({jar.cache_name for jar in jars}) == len(jars)
