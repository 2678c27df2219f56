"""What a local Flink cluster is told, and what is read from its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import java_lock_path
from beam_pipeline.runtime.flink.cluster import (
    ClusterSettings,
    cluster_config,
    format_config,
    jars_without_flink,
    latest_checkpoint,
    parse_parameters,
)
from beam_pipeline.runtime.programs.java import read_lock

SETTINGS = ClusterSettings(slots=3)
OUTPUT = """\
INFO  [] - Loading configuration property: rest.port, 1
BASH_JAVA_UTILS_EXEC_RESULT:-Xmx469762048 -Xms469762048 -XX:MaxMetaspaceSize=268435456
BASH_JAVA_UTILS_EXEC_RESULT:-D jobmanager.memory.heap.size=469762048b -D a.b=1
"""


def config(directory: Path) -> dict[str, str]:
    return cluster_config(directory, SETTINGS, rest_port=1, rpc_port=2)


def test_the_configuration_is_the_same_when_it_is_read_as_yaml(tmp_path: Path) -> None:
    settings = {**config(tmp_path / 'a "quoted": name'), "odd": "a: b # c\\d"}
    assert yaml.safe_load(format_config(settings)) == settings


def test_a_cluster_listens_on_loopback_alone(tmp_path: Path) -> None:
    hosts = {key: value for key, value in config(tmp_path).items() if "host" in key}
    addresses = {key: value for key, value in config(tmp_path).items() if "address" in key}
    assert len(hosts) == 3
    assert len(addresses) == 3
    assert {*hosts.values(), *addresses.values()} == {"127.0.0.1"}


def test_slots_are_the_parallelism(tmp_path: Path) -> None:
    assert config(tmp_path)["taskmanager.numberOfTaskSlots"] == "3"


def test_parameters_are_the_marked_lines() -> None:
    flags, dynamic = parse_parameters(OUTPUT)
    assert flags == ["-Xmx469762048", "-Xms469762048", "-XX:MaxMetaspaceSize=268435456"]
    assert dynamic == ["-D", "jobmanager.memory.heap.size=469762048b", "-D", "a.b=1"]


@pytest.mark.parametrize("output", ["", OUTPUT + OUTPUT, OUTPUT.replace("BASH", "CASH", 1)])
def test_other_output_is_refused(output: str) -> None:
    with pytest.raises(EnvironmentFailure, match="BashJavaUtils"):
        parse_parameters(output)


def test_the_newest_complete_checkpoint_counts(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for age, name in enumerate(("a/chk-9", "b/chk-2", "a/chk-10")):
        directory = tmp_path / name
        directory.mkdir(parents=True)
        (directory / "_metadata").touch()
        os.utime(directory / "_metadata", ns=(10**9, 10**9 * (100 - age)))
    (tmp_path / "c" / "chk-11").mkdir(parents=True)  # was being written
    assert latest_checkpoint(tmp_path) == tmp_path / "a/chk-9"


def test_a_cluster_gets_beams_jars_without_flinks_own() -> None:
    jars = [Path("jars", jar.cache_name) for jar in read_lock(java_lock_path("flink"))]
    left_out = set(jars) - set(jars_without_flink(jars))
    assert {jar.parent.name for jar in left_out} == {"org.apache.flink", "org.slf4j"}
    names = [jar.name for jar in jars_without_flink(jars)]
    assert any(name.startswith("beam-runners-flink-1.19") for name in names)


def test_beams_java_is_of_one_version_but_for_the_two_that_cannot_be() -> None:
    """A runner and a core of different versions end in NoSuchMethodError at the first timer."""
    versions: dict[str, set[str]] = {}
    for jar in read_lock(java_lock_path("flink")):
        if jar.group == "org.apache.beam" and "vendor" not in jar.artifact:
            versions.setdefault(jar.version, set()).add(jar.artifact)
    assert versions.pop("2.65.0") == {"beam-runners-java-job-service"}
    assert versions.pop("2.73.0") == {"beam-sdks-java-io-kafka"}
    assert set(versions) == {"2.70.0"}
