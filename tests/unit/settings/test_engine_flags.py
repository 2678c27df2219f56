"""Flags of the engine: which go together, and what a command line means on Flink."""

from __future__ import annotations

import pytest

from beam_pipeline.cli import command_parsers, command_words, main
from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.flink.preflight import pool_addresses
from beam_pipeline.settings.config import EngineSettings, engine_settings
from beam_pipeline.settings.sources import Sources


def settings(*words: str) -> EngineSettings:
    parser = command_parsers()["run"]
    return engine_settings(vars(parser.parse_args(["--engine=flink", *words])))


@pytest.mark.parametrize(
    ("words", "on_flink"),
    [
        ([], True),
        (["--flink_master=host:8081", "--detach"], True),
        (["--flink_master=host:8081", "--until=caught_up", "--worker_pool=pool:50000"], True),
        (["--engine=prism"], False),
    ],
)
def test_these_go_together(words: list[str], on_flink: bool) -> None:
    assert settings(*words).on_flink is on_flink


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (["--parallelism=0"], "--parallelism=0: must be 1 or more"),
        (["--checkpointing_interval=9"], "--checkpointing_interval=9: must be 10 or more"),
        (["--detach"], "--detach needs --flink_master"),
        (["--detach", "--flink_master=h:1", "--until=caught_up"], "--until"),
        (["--flink_master=host"], "--flink_master=host: must be HOST:PORT"),
        (["--flink_master=host:80810"], "must be HOST:PORT"),
        (["--flink_master=:8081"], "must be HOST:PORT"),
        (["--worker_pool=host:no"], "--worker_pool=host:no"),
        (["--engine=prism", "--flink_master=h:1"], "--flink_master needs --engine=flink"),
        (["--engine=prism", "--from_savepoint=/s"], "--from_savepoint needs --engine=flink"),
    ],
)
def test_these_do_not(words: list[str], refusal: str) -> None:
    with pytest.raises(UsageError, match=refusal):
        settings(*words)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        ([], ["demo"]),
        (["--demo_seconds=5"], ["demo", "--demo_seconds=5"]),
        (["--input_topics=a"], ["run", "--input_topics=a"]),
        (["demo"], ["demo"]),
        (["reconcile", "--json"], ["reconcile", "--json"]),
        (["status"], ["flink", "status"]),
        (["doctor", "--json"], ["doctor", "--json"]),
        (["cancel", "--output_dir=x"], ["flink", "cancel", "--output_dir=x"]),
    ],
)
def test_what_run_flink_means(words: list[str], meaning: list[str]) -> None:
    run_flink = Sources({"BEAM_PIPELINE_ENGINE": "flink"})
    assert command_words(words, run_flink) == meaning


def test_help_of_an_action_is_that_of_flink() -> None:
    run_flink = Sources({"BEAM_PIPELINE_ENGINE": "flink"})
    assert command_words(["status", "--help"], run_flink) == ["flink", "status", "--help"]
    assert command_words(["--help"], run_flink) == ["--help"]


def test_actions_of_flink_are_commands_there_alone() -> None:
    with pytest.raises(UsageError, match="status is not a command"):
        command_words(["status"], Sources())


def test_help_of_the_flink_command_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["flink", "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ./run_direct.sh flink")


def test_worker_pools_are_beside_the_task_managers() -> None:
    hosts = ["10.0.0.5", "10.0.0.6"]
    assert pool_addresses("localhost:50000", hosts) == ["10.0.0.5:50000", "10.0.0.6:50000"]
    assert pool_addresses("pool:50000", hosts) == ["pool:50000"]
