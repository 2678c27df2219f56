"""docker-compose.yml, as far as it can be checked without a Docker engine."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml  # type: ignore[import-untyped]

from beam_pipeline.cli import command_parsers
from beam_pipeline.resources import java_lock_path, requirements_path
from beam_pipeline.runtime.flink.cluster import ClusterSettings, cluster_config
from beam_pipeline.runtime.preflight import DEAD_LETTER_OVERHEAD_BYTES
from beam_pipeline.runtime.programs.versitygw import VERSITYGW
from beam_pipeline.settings.config import engine_settings, pipeline_settings

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "tests/data/compose-spec.json").read_bytes())
# org.apache.kafka.server.config.ServerLogConfigs, message.max.bytes
DEFAULT_MAX_MESSAGE_BYTES = 1048588


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that comes twice, as Compose does and PyYAML does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key comes twice: {keys}"
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    # Compose would put the environment's variables there.
    assert "$" not in text
    parsed: dict[str, Any] = yaml.load(text, Loader=_StrictLoader)
    return parsed


@pytest.fixture(scope="module")
def properties(compose: dict[str, Any]) -> dict[str, str]:
    """The server.properties that the image makes of its environment (docker/examples/README.md of
    apache/kafka): KAFKA_A_B is a.b."""
    return {
        name.removeprefix("KAFKA_").replace("_", ".").lower(): value
        for name, value in compose["services"]["kafka"]["environment"].items()
        if name.startswith("KAFKA_")
    }


def scripts(compose: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(shell, script) of each shell command in the file."""
    for service in compose["services"].values():
        match service.get("command"):
            case [shell, flags, script]:
                assert flags == "-euc"
                yield shell, script
        match service.get("healthcheck", {}).get("test"):
            case ["CMD-SHELL", script]:
                yield "/bin/sh", script


def created_topics(compose: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Topic to the options that kafka-topics.sh makes it with."""
    script = compose["services"]["topics"]["command"][2].replace("\\\n", " ")
    topics = {}
    for line in script.splitlines():
        program, *words = shlex.split(line)
        assert program == "/opt/kafka/bin/kafka-topics.sh"
        options: dict[str, str] = {}
        name = ""
        for word in words:
            if word.startswith("--"):
                name = word.removeprefix("--")
                assert name not in options
                options[name] = ""
            else:
                assert options[name] == ""
                options[name] = word
        topics[options.pop("topic")] = options
    return topics


def violations(document: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def test_it_is_valid_by_the_compose_specification(compose: dict[str, Any]) -> None:
    assert violations(compose) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("services", "kafka", "port"), ["9092:9092"]),
        (("services", "kafka", "healthcheck", "interval"), 10),
        (("services", "topics", "depends_on", "kafka", "condition"), "healthy"),
        (("topics",), {}),
    ],
)
def test_the_schema_finds_mistakes(
    path: tuple[str, ...], value: Any, compose: dict[str, Any]
) -> None:
    broken = copy.deepcopy(compose)
    target = broken
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    assert violations(broken)


STORE_SERVICES = {"bucket", "store"}


def test_the_images_are_the_locked_kafka_and_the_pinned_store(compose: dict[str, Any]) -> None:
    lock = java_lock_path("kafka").read_text(encoding="utf-8")
    locked = re.findall(r"^org\.apache\.kafka:kafka_2\.13:(\S+) ", lock, re.MULTILINE)
    images = {
        service["image"] for service in compose["services"].values() if "build" not in service
    }
    assert len(locked) == 1
    assert images == {
        *(f"apache/kafka:{version}" for version in locked),
        f"versity/versitygw:{VERSITYGW.release}",
    }


def test_the_store_comes_with_its_profile_only(compose: dict[str, Any]) -> None:
    services = compose["services"]
    names = {name for name, service in services.items() if service.get("profiles") == ["store"]}
    assert names == STORE_SERVICES
    assert services["store"]["ports"] == ["127.0.0.1:7070:7070"]
    assert services["store"]["volumes"] == services["bucket"]["volumes"] == ["store-data:/store"]
    assert services["store"]["command"][-1] == "/store"


def test_ports_are_published_on_loopback_only(
    compose: dict[str, Any], properties: dict[str, str]
) -> None:
    services = {
        name: service for name, service in compose["services"].items() if name not in STORE_SERVICES
    }
    assert services.pop("kafka")["ports"] == [
        f"127.0.0.1:{port}:{port}" for port in (9092, 8081, 9464)
    ]
    assert "network_mode" not in compose["services"]["kafka"]
    assert [service.get("ports") for service in services.values()] == [None] * len(services)
    assert {service["network_mode"] for service in services.values()} == {"service:kafka"}
    # Clients go where the broker sends them, and the controller is for the broker alone.
    assert properties["advertised.listeners"] == "PLAINTEXT://localhost:9092"
    assert properties["listeners"] == "PLAINTEXT://:9092,CONTROLLER://localhost:9093"


def test_topics_are_made_once_kafka_answers(compose: dict[str, Any]) -> None:
    kafka, topics = compose["services"]["kafka"], compose["services"]["topics"]
    assert kafka["healthcheck"]["test"][1].startswith(
        "/opt/kafka/bin/kafka-broker-api-versions.sh --bootstrap-server localhost:9092"
    )
    assert topics["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert topics["restart"] == "no"


def test_topics_suit_the_pipeline(compose: dict[str, Any]) -> None:
    common = {
        "bootstrap-server": "localhost:9092",
        "create": "",
        "if-not-exists": "",
        "partitions": "4",
        "replication-factor": "1",
    }
    dead_letter_bytes = DEFAULT_MAX_MESSAGE_BYTES + DEAD_LETTER_OVERHEAD_BYTES
    assert created_topics(compose) == {
        "orders": {**common, "config": "message.timestamp.type=LogAppendTime"},
        "orders.dlq": {**common, "config": f"max.message.bytes={dead_letter_bytes}"},
    }


def test_data_outlives_the_container(compose: dict[str, Any], properties: dict[str, str]) -> None:
    volumes = [mount.split(":") for mount in compose["services"]["kafka"]["volumes"]]
    assert volumes == [["kafka-data", properties["log.dirs"]]]
    assert list(compose["volumes"]) == ["kafka-data", "flink-state", "store-data"]


FLINK_SERVICES = {"jobmanager", "taskmanager", "workers", "pipeline"}


def test_flink_comes_with_its_profile_only(compose: dict[str, Any]) -> None:
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert {name for name, found in profiles.items() if found == ["flink"]} == FLINK_SERVICES
    assert profiles["kafka"] is None
    assert profiles["topics"] is None


def test_flink_images_are_stages_of_the_dockerfile(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    builds = [compose["services"][name]["build"] for name in FLINK_SERVICES]
    assert {build["target"] for build in builds} == stages
    assert {build["dockerfile"] for build in builds} == {"docker/Dockerfile"}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    for path in (path for paths in copied for path in paths.split()):
        assert (ROOT / path).exists(), path


def test_flinks_image_is_of_the_locked_version() -> None:
    locked = requirements_path("flink").read_text(encoding="utf-8")
    version = re.match(r"apache-flink-libraries==(\S+)", locked)
    assert version is not None
    text = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    assert f"FROM flink:{version[1]}-" in text


def test_flink_is_set_up_as_the_local_cluster_is(compose: dict[str, Any]) -> None:
    """But for addresses, and directories."""
    services = compose["services"]
    properties = yaml.safe_load(services["jobmanager"]["environment"]["FLINK_PROPERTIES"])
    assert services["taskmanager"]["environment"] == services["jobmanager"]["environment"]
    settings = ClusterSettings(slots=2, prometheus=True)
    local = cluster_config(Path("/x"), settings, rest_port=1, rpc_port=2)
    different = {
        name for name, value in properties.items() if name not in local or local[name] != str(value)
    }
    assert different == {
        "jobmanager.rpc.address",
        "taskmanager.host",
        "state.checkpoints.dir",
        "state.savepoints.dir",
        "metrics.reporter.prometheus.port",
    }
    state = "/flink-state"
    assert properties["state.checkpoints.dir"].startswith(f"file://{state}/")
    for name in ("jobmanager", "taskmanager"):
        assert services[name]["volumes"] == [f"flink-state:{state}"]


def test_the_pipelines_command_is_one_that_the_command_line_takes(compose: dict[str, Any]) -> None:
    program, *words = compose["services"]["pipeline"]["command"]
    assert program == "beam-pipeline"
    args = command_parsers()[words[0]].parse_args(words[1:])
    engine_settings(vars(args))
    pipeline_settings(vars(args))
    pool = compose["services"]["workers"]["command"][-1]
    assert args.worker_pool == f"localhost:{pool.removeprefix('--service_port=')}"
    assert args.input_topics in created_topics(compose)
    for name in ("workers", "pipeline"):
        assert compose["services"][name]["volumes"] == ["./data:/data"]
    assert args.output_dir.startswith("/data/")
    assert args.dead_letter_dir.startswith("/data/")


def test_shell_commands_parse(compose: dict[str, Any]) -> None:
    found = list(scripts(compose))
    assert len(found) == 2
    for shell, script in found:
        checked = subprocess.run(
            [shell, "-n"], input=script, text=True, capture_output=True, timeout=20, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")
