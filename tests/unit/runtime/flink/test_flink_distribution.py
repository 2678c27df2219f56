"""What is taken out of Flink's archive."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import java_lock_path, requirements_path
from beam_pipeline.runtime.flink import distribution
from beam_pipeline.runtime.flink.distribution import FlinkDistribution, look_for_flink, unpack
from beam_pipeline.runtime.programs.java import read_lock

NEEDED = (
    "lib/flink-dist-1.19.3.jar",
    "lib/log4j-core-2.17.1.jar",
    "bin/bash-java-utils.jar",
    "plugins/metrics-prometheus/flink-metrics-prometheus-1.19.3.jar",
)
NOT_NEEDED = ("lib/flink-table-runtime-1.19.3.jar", "opt/flink-python.jar", "plugins/README.txt")


def archive(tmp_path: Path, names: list[str]) -> Path:
    path = tmp_path / "flink.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name in names:
            member = tarfile.TarInfo(f"apache-flink-libraries-1.19.3/{name}")
            member.size = len(name)
            packed.addfile(member, io.BytesIO(name.encode()))
    return path


def test_what_a_cluster_needs_is_unpacked_and_nothing_else(tmp_path: Path) -> None:
    names = [f"deps/{name}" for name in NEEDED + NOT_NEEDED]
    unpack(archive(tmp_path, ["setup.py", *names]), tmp_path / "flink")
    found = {
        str(path.relative_to(tmp_path / "flink")): path.read_text()
        for path in (tmp_path / "flink").rglob("*")
        if path.is_file()
    }
    assert found == {name: f"deps/{name}" for name in NEEDED}


def test_an_archive_without_something_needed_is_refused(tmp_path: Path) -> None:
    packed = archive(tmp_path, [f"deps/{name}" for name in NEEDED[1:]])
    with pytest.raises(EnvironmentFailure, match=r"has no deps/lib/flink-dist-\*\.jar"):
        unpack(packed, tmp_path / "flink")


def test_paths_are_found_in_the_unpacked_files(tmp_path: Path) -> None:
    unpack(archive(tmp_path, [f"deps/{name}" for name in NEEDED]), tmp_path)
    flink = FlinkDistribution(tmp_path)
    assert [jar.name for jar in flink.jars] == [Path(name).name for name in NEEDED[:2]]
    assert [jar.name for jar in flink.parameter_jars] == [
        "bash-java-utils.jar",
        "flink-dist-1.19.3.jar",
    ]


def test_flink_and_beams_runner_are_of_one_minor_version() -> None:
    locked = requirements_path("flink").read_text(encoding="utf-8")
    assert locked.startswith("apache-flink-libraries==1.19.")
    assert "--hash=sha256:" in locked
    runners = [jar.artifact for jar in read_lock(java_lock_path("flink"))]
    assert "beam-runners-flink-1.19" in runners


def test_one_that_is_not_whole_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path))
    assert look_for_flink() is None
    libraries = distribution._cache_place() / "lib"
    libraries.mkdir(parents=True)
    with pytest.raises(EnvironmentFailure, match="is not whole; remove it"):
        look_for_flink()
    (libraries / "flink-dist-1.19.3.jar").touch()
    found = look_for_flink()
    assert found is not None
    assert found.version == "1.19.3"
