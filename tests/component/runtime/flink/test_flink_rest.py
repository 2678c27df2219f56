"""Answers of Flink's REST interface, and what becomes of those that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from rest_answers import Answers, answering

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.flink.rest import FlinkRefusedError, FlinkRest, FlinkUnreachableError
from beam_pipeline.runtime.processes import free_port


@pytest.fixture
def answers() -> Answers:
    return {}


@pytest.fixture
def rest(answers: Answers) -> Iterator[FlinkRest]:
    with answering(answers) as client:
        yield client


def test_nobody_there_is_unreachable() -> None:
    with pytest.raises(FlinkUnreachableError, match="does not answer"):
        FlinkRest(f"127.0.0.1:{free_port()}").overview()


def test_a_cluster_without_a_leader_is_unreachable(rest: FlinkRest, answers: Answers) -> None:
    answers["GET", "/v1/overview"] = (503, {"errors": ["leader election"]})
    with pytest.raises(FlinkUnreachableError, match="is not ready"):
        rest.overview()


def test_another_server_is_unreachable_too(rest: FlinkRest, answers: Answers) -> None:
    answers["GET", "/v1/overview"] = (200, "not Flink")
    with pytest.raises(FlinkUnreachableError, match="is not Flink"):
        rest.overview()


def test_a_job_that_is_unknown_is_none(rest: FlinkRest, answers: Answers) -> None:
    answers["GET", "/v1/jobs/j1"] = (404, {"errors": ["Could not find Flink job (j1)"]})
    assert rest.job("j1") is None


def test_a_refusal_names_its_cause(rest: FlinkRest, answers: Answers) -> None:
    errors = [
        "Internal error",
        "java.util.X: no\n\tat a.b\nCaused by: java.io.Y: disk full\n\tat c",
    ]
    answers["PATCH", "/v1/jobs/j1?mode=cancel"] = (500, {"errors": errors})
    with pytest.raises(FlinkRefusedError, match=r"with 500: Caused by: java\.io\.Y: disk full$"):
        rest.cancel("j1")


def test_jobs_come_newest_first(rest: FlinkRest, answers: Answers) -> None:
    def job(name: str, start: int, state: str) -> dict[str, Any]:
        return {"jid": name, "name": name, "state": state, "start-time": start}

    jobs = [job("a", 1, "CANCELED"), job("b", 3, "RUNNING"), job("c", 2, "RESTARTING")]
    answers["GET", "/v1/jobs/overview"] = (200, {"jobs": jobs})
    assert [found.id for found in rest.jobs()] == ["b", "c", "a"]
    assert [found.is_over for found in rest.jobs()] == [False, False, True]


def test_a_savepoint_that_failed_says_why(rest: FlinkRest, answers: Answers) -> None:
    answers["POST", "/v1/jobs/j1/savepoints"] = (202, {"request-id": "r1"})
    failure = {"failure-cause": {"stack-trace": "java.io.Z: no such directory\n\tat a.b"}}
    answers["GET", "/v1/jobs/j1/savepoints/r1"] = (
        200,
        {"status": {"id": "COMPLETED"}, "operation": failure},
    )
    with pytest.raises(EnvironmentFailure, match=r"failed: java\.io\.Z: no such directory$"):
        rest.savepoint("j1", None)


def test_metrics_are_asked_for_in_requests_that_flink_takes(
    rest: FlinkRest, answers: Answers
) -> None:
    path = "/v1/jobs/j1/vertices/v1/subtasks/metrics"
    names = [f"m{number}" for number in range(12)]
    for some in (names[:10], names[10:]):
        found = [{"id": name, "sum": 1.5} for name in some]
        answers["GET", f"{path}?agg=sum&get={'%2C'.join(some)}"] = (200, found)
    assert rest.subtask_metrics("j1", "v1", names) == dict.fromkeys(names, 1.5)
