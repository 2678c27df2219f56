"""Flags of the engine: what goes together, and what does not."""

from __future__ import annotations

import argparse

import pytest

from beam_pipeline.cli import command_parsers, flink_words, main
from beam_pipeline.commands.engines import check_engine_flags
from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.flink.preflight import pool_addresses


def flags(*words: str) -> argparse.Namespace:
    return command_parsers()["run"].parse_args(["--engine=flink", *words])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--flink_master=host:8081", "--detach"],
        ["--flink_master=host:8081", "--until=caught_up", "--worker_pool=pool:50000"],
        ["--engine=prism"],
    ],
)
def test_these_go_together(words: list[str]) -> None:
    check_engine_flags(flags(*words))


@pytest.mark.parametrize(
    ("words", "told"),
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
def test_these_do_not(words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        check_engine_flags(flags(*words))


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], ["demo", "--engine=flink"]),
        (["--demo_seconds=5"], ["demo", "--engine=flink", "--demo_seconds=5"]),
        (["--input_topics=a"], ["run", "--engine=flink", "--input_topics=a"]),
        (["demo"], ["demo", "--engine=flink"]),
        (["reconcile", "--json"], ["reconcile", "--json"]),
        (["status"], ["flink", "status"]),
        (["doctor", "--json"], ["doctor", "--engine=flink", "--json"]),
        (["cancel", "--output_dir=x"], ["flink", "cancel", "--output_dir=x"]),
    ],
)
def test_what_run_flink_means(words: list[str], meant: list[str]) -> None:
    assert flink_words(words) == meant


def test_help_of_the_flink_command_is_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["flink", "--help"])
    assert ended.value.code == 0
    assert "usage: beam-pipeline flink" in capsys.readouterr().out


def test_worker_pools_are_beside_the_task_managers() -> None:
    hosts = ["10.0.0.5", "10.0.0.6"]
    assert pool_addresses("localhost:50000", hosts) == ["10.0.0.5:50000", "10.0.0.6:50000"]
    assert pool_addresses("pool:50000", hosts) == ["pool:50000"]
