"""A broker with TLS and a login; who may read what a run leaves, and where its processes listen."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration.pipeline_runs import PipelineRun, send
from listening import Listener
from secure_brokers import (
    EXPIRED,
    GOOD,
    OTHER_HOST,
    PASSWORD,
    PASSWORD_CORE,
    SELF_SIGNED,
    SecureBroker,
    secure_broker,
)

from beam_pipeline.kafka.admin import require_cluster
from beam_pipeline.kafka.certificate import certificate_problem
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms

WRONG_PASSWORD = "not-the-pass-word"
COMMANDS = ("run", "produce", "reconcile", "dlq")


@pytest.fixture(scope="module")
def secure(
    java: Path, kafka_jars: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureBroker]:
    with secure_broker(tmp_path_factory.mktemp("secure"), java, kafka_jars) as running:
        yield running


@pytest.fixture
def run(tmp_path: Path) -> PipelineRun:
    return PipelineRun(tmp_path / "run")


def words_of(command: str, run: PipelineRun, config: Path, topic: str) -> list[str]:
    """A command that reaches the broker by nothing but the file."""
    directories = [f"--output_dir={run.output_dir}", f"--dead_letter_dir={run.dead_letter_dir}"]
    flags = {
        "run": [f"--input_topics={topic}", *directories, "--window_seconds=5"],
        "produce": [f"--topic={topic}", "--events=3", "--quiet"],
        "reconcile": [f"--input_topics={topic}", *directories],
        "dlq": ["replay", directories[1]],
    }
    return [command, *flags[command], f"--kafka_config={config}"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("wrong password", "the broker refuses the login (SASL authentication error: "),
        (EXPIRED, "the broker's certificate has expired; renew it"),
        (SELF_SIGNED, "the broker's certificate is self-signed and not trusted; give it, as a PEM"),
    ],
)
def test_a_refusal_is_one_line_without_a_secret(
    secure: SecureBroker, run: PipelineRun, tmp_path: Path, case: str, said: str
) -> None:
    password = WRONG_PASSWORD if case == "wrong password" else PASSWORD
    listener = case if case in secure.ports else GOOD
    config = secure.config_file(tmp_path, listener=listener, password=password)
    run.output_dir.mkdir(parents=True)
    run.dead_letter_dir.mkdir()
    # Side by side: most of their time is waiting for the broker.
    started = {
        command: run.start(*words_of(command, run, config, "orders")) for command in COMMANDS
    }
    address = f"127.0.0.1:{secure.ports[listener]}"
    for command, process in started.items():
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1, f"{command}: {output}"
        (line,) = output.splitlines()
        assert line.startswith(f"beam-pipeline: --kafka_bootstrap_servers={address}: {said}")
        assert WRONG_PASSWORD not in line
        assert PASSWORD_CORE not in line
    assert run.processes() == {}


def test_a_certificate_that_is_named_is_trusted(secure: SecureBroker, tmp_path: Path) -> None:
    """The remedy that the line about a self-signed one gives."""
    named = secure.config_file(tmp_path, listener=SELF_SIGNED, ca=SELF_SIGNED)
    require_cluster(KafkaConnection.from_flags(None, named))
    unknown = secure.config_file(tmp_path, listener=GOOD, ca=SELF_SIGNED)
    problem = certificate_problem(KafkaConnection.from_flags(None, unknown))
    assert problem is not None
    assert problem.startswith("is by an issuer that is not trusted; give the issuer's")
    other = KafkaConnection.from_flags(None, secure.config_file(tmp_path, listener=OTHER_HOST))
    assert "is for other addresses; use one" in str(certificate_problem(other))
    good = KafkaConnection.from_flags(None, secure.config_file(tmp_path))
    assert certificate_problem(good) is None
    assert certificate_problem(secure.plain) is None


def test_a_whole_run_over_tls_with_a_login(
    secure: SecureBroker, run: PipelineRun, tmp_path: Path
) -> None:
    """Reader and writer in Java, admin and tools in librdkafka, one PEM file and one login; the
    password is in no output, log, file, file name or command line, dead letters and logs are
    private, and nothing listens beyond loopback."""
    topic = secure.make_topic(partitions=2)
    config = secure.config_file(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    produced = run.finish(*words_of("produce", run, config, topic), "--invalid_ratio=0.3")
    assert produced.code == 0, produced.output
    assert "3 records to" in produced.output
    factory = EventFactory(1)
    events = [json.dumps(factory.make(wall_clock_ms())).encode() for _ in range(40)]
    send(secure.plain, topic, [*events, b"{broken", None], partition=1)

    landed, seen, commands = run.watch(
        *words_of("run", run, config, topic), "--until=caught_up", TMPDIR=str(scratch)
    )
    assert landed.code == 0, landed.output
    proven = run.finish(*words_of("reconcile", run, config, topic))
    assert proven.code == 0, proven.output
    assert run.placed().total() == len(run.placed()) == 45
    letters_sent = run.finish(
        *("dlq", "replay", "--dry_run", f"--dead_letter_dir={run.dead_letter_dir}")
    )
    outputs = (produced, landed, proven, letters_sent)

    assert_nowhere(PASSWORD_CORE, [run.directory, scratch, secure.directory / "broker.log"])
    told = [*commands.values(), *(finished.output for finished in outputs)]
    assert not [text for text in told if PASSWORD_CORE in text]
    assert_private(run)
    assert not [commands[found.pid] for found in seen if not found.on_loopback]
    names = {command_of(listener, commands) for listener in seen}
    assert names == {"LoopbackExpansion", "prism", "beam_pipeline.job"}


def command_of(listener: Listener, commands: dict[int, str]) -> str:
    known = ("LoopbackExpansion", "prism --job_port", "beam_pipeline.job")
    name = next((known for known in known if known in commands[listener.pid]), "?")
    return name.partition(" ")[0]


def assert_nowhere(secret: str, places: list[Path]) -> None:
    """The secret is in no file's content or name."""
    files = [path for place in places for path in [place, *place.rglob("*")]]
    assert len(files) > 10
    for path in files:
        assert secret not in str(path)
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path


def assert_private(run: PipelineRun) -> None:
    """Under the tests' umask, dead letters and logs are the user's alone, Parquet is not."""
    umask = os.umask(0o077)
    os.umask(umask)
    for root in (run.dead_letter_dir, run.directory / "logs"):
        for path in [root, *root.rglob("*")]:
            wanted = 0o700 if path.is_dir() else 0o600
            if "_ledger" not in path.parts:
                assert stat.S_IMODE(path.stat().st_mode) == wanted, path
    parquet = next(run.output_dir.rglob("*.parquet"))
    assert stat.S_IMODE(parquet.stat().st_mode) == 0o666 & ~umask
