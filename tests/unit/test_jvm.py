"""The jar that brings a class path in with an agent."""

from __future__ import annotations

import zipfile
from pathlib import Path

from beam_pipeline.runtime.jvm import write_agent


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
