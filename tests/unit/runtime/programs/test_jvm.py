"""The agents that a JVM is started with."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import java_lock_path
from beam_pipeline.runtime.programs.java import read_lock
from beam_pipeline.runtime.programs.jvm import LOOPBACK_RULE, loopback_flags, write_agent


def test_a_manifest_keeps_to_its_line_length_and_reads_back(tmp_path: Path) -> None:
    jars = [Path("/cache", f"{'long' * number}.jar") for number in range(60)]
    write_agent(tmp_path / "agent.jar", "a.b.Agent", jars)
    with zipfile.ZipFile(tmp_path / "agent.jar") as jar:
        text = jar.read("META-INF/MANIFEST.MF").decode("ascii")
    assert text.endswith("\r\n")
    assert max(len(line.encode()) for line in text.split("\r\n")) <= 70
    attributes = dict(
        line.split(": ", 1) for line in text.replace("\r\n ", "").strip().split("\r\n")
    )
    assert attributes["Premain-Class"] == "a.b.Agent"
    assert attributes["Class-Path"].split() == [jar.as_uri() for jar in jars]


def test_the_loopback_agent_is_among_the_locked_jars() -> None:
    jars = [Path("/cache", jar.cache_name) for jar in read_lock(java_lock_path("flink"))]
    (flag,) = loopback_flags(jars)
    agent = next(jar for jar in jars if jar.parent.name == "org.jboss.byteman")
    assert flag == f"-javaagent:{agent}=script:{LOOPBACK_RULE}"
    assert LOOPBACK_RULE.is_file()
    # What docs/flink.md says to a cluster of the user's own.
    documented = (Path(__file__).parents[4] / "docs/flink.md").read_text(encoding="utf-8")
    assert f"-javaagent:/opt/flink/lib/{agent.name}=script:" in documented


@pytest.mark.parametrize("sign", [",", "="])
def test_a_path_that_an_agent_can_not_have_is_named(sign: str) -> None:
    jar = Path(f"/home/user{sign}1/cache/byteman-4.jar")
    with pytest.raises(EnvironmentFailure, match=r"byteman-4\.jar: .* set BEAM_PIPELINE_CACHE"):
        loopback_flags([jar])


def test_a_cluster_without_beams_jars_has_no_agent() -> None:
    assert loopback_flags([Path("/opt/flink/lib/flink-dist-1.19.3.jar")]) == []
