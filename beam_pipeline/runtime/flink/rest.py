"""A client of Flink's REST interface.

Paths and fields are those of Flink 1.19's "REST API" reference, version v1.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

from beam_pipeline.errors import EnvironmentFailure

TERMINAL_STATES = frozenset({"FINISHED", "CANCELED", "FAILED", "SUSPENDED"})
_TIMEOUT_SECONDS = 10.0
_OPERATION_POLL_SECONDS = 0.2
_METRICS_PER_REQUEST = 10
# A cluster is in the user's own network, and Beam's job server uses no proxy either.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class FlinkUnreachableError(EnvironmentFailure):
    """The cluster does not answer."""


class FlinkRefusedError(EnvironmentFailure):
    """The cluster answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class ClusterOverview:
    """Version and resources of a cluster."""

    version: str
    task_managers: int
    slots: int
    free_slots: int


@dataclass(frozen=True, slots=True)
class FlinkJob:
    """A job on the cluster; `state` is Flink's, such as RUNNING."""

    id: str
    name: str
    state: str

    @property
    def is_over(self) -> bool:
        """Return whether the job has ended."""
        return self.state in TERMINAL_STATES


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """A job's checkpoints; times in milliseconds, sizes in bytes."""

    completed: int
    failed: int
    restored: int
    latest_path: str | None
    latest_bytes: int
    latest_duration_ms: int


class FlinkRest:
    """A client of one cluster's REST interface; `master` is its host:port.

    Every method raises `FlinkUnreachableError` when there is no answer and `FlinkRefusedError`
    when the answer is an error.
    """

    def __init__(self, master: str, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        self.master = master
        self._timeout_seconds = timeout_seconds

    @property
    def web_url(self) -> str:
        """Return the address of the web UI."""
        return f"http://{self.master}"

    def overview(self) -> ClusterOverview:
        """Return version and slots."""
        overview = self._get("/overview")
        try:
            return ClusterOverview(
                version=overview["flink-version"],
                task_managers=overview["taskmanagers"],
                slots=overview["slots-total"],
                free_slots=overview["slots-available"],
            )
        except (LookupError, TypeError):
            raise FlinkUnreachableError(f"what answers at {self.master} is not Flink") from None

    def class_path(self) -> str:
        """Return the JobManager's class path."""
        return str(self._get("/jobmanager/environment")["classpath"])

    def configuration(self) -> dict[str, str]:
        """Return the JobManager's configuration; Flink masks secrets."""
        return {entry["key"]: entry["value"] for entry in self._get("/jobmanager/config")}

    def jobs(self) -> list[FlinkJob]:
        """Return every job that the cluster knows, the newest first."""
        jobs = sorted(self._get("/jobs/overview")["jobs"], key=lambda job: -job["start-time"])
        return [FlinkJob(job["jid"], job["name"], job["state"]) for job in jobs]

    def job(self, job_id: str) -> FlinkJob | None:
        """Return a job, or None where the cluster does not know it."""
        try:
            job = self._get(f"/jobs/{job_id}")
        except FlinkRefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return FlinkJob(job["jid"], job["name"], job["state"])

    def failure(self, job_id: str) -> str | None:
        """Return the first line of the newest exception of a job; None where there is none."""
        exceptions = self._get(f"/jobs/{job_id}/exceptions")
        entries = exceptions.get("exceptionHistory", {}).get("entries", [])
        traces = [exceptions.get("root-exception"), *(entry.get("stacktrace") for entry in entries)]
        return next((trace.splitlines()[0] for trace in traces if trace), None)

    def checkpoints(self, job_id: str) -> Checkpoints:
        """Return counts of the job's checkpoints, and the latest one."""
        checkpoints = self._get(f"/jobs/{job_id}/checkpoints")
        counts, latest = checkpoints["counts"], checkpoints["latest"]["completed"] or {}
        return Checkpoints(
            completed=counts["completed"],
            failed=counts["failed"],
            restored=counts["restored"],
            latest_path=latest.get("external_path"),
            latest_bytes=latest.get("checkpointed_size", 0),
            latest_duration_ms=latest.get("end_to_end_duration", 0),
        )

    def vertices(self, job_id: str) -> list[str]:
        """Return the ids of the job's vertices."""
        return [vertex["id"] for vertex in self._get(f"/jobs/{job_id}")["vertices"]]

    def subtask_metrics(
        self, job_id: str, vertex: str, names: Sequence[str] = ()
    ) -> dict[str, float]:
        """Return metrics of a vertex, summed over its subtasks.

        Without `names`, return 0.0 for each metric that there is.
        """
        path = f"/jobs/{job_id}/vertices/{vertex}/subtasks/metrics"
        if not names:
            return {metric["id"]: 0.0 for metric in self._get(path)}
        sums = {}
        # Flink accepts a request line of 4096 bytes.
        for start in range(0, len(names), _METRICS_PER_REQUEST):
            some = ",".join(names[start : start + _METRICS_PER_REQUEST])
            for metric in self._get(f"{path}?agg=sum&get={urllib.parse.quote(some)}"):
                sums[metric["id"]] = float(metric["sum"])
        return sums

    def metrics(self, path: str, names: str = "") -> dict[str, str]:
        """Return metrics below a path such as `/taskmanagers/ID`; commas separate `names`."""
        query = f"?get={urllib.parse.quote(names)}" if names else ""
        return {m["id"]: m.get("value", "") for m in self._get(f"{path}/metrics{query}")}

    def task_managers(self) -> list[dict[str, Any]]:
        """Return the TaskManagers, as Flink describes them."""
        managers: list[dict[str, Any]] = self._get("/taskmanagers")["taskmanagers"]
        return managers

    def cancel(self, job_id: str) -> None:
        """Request the end of a job; return before it has ended."""
        self._request("PATCH", f"/jobs/{job_id}?mode=cancel", None)

    def savepoint(self, job_id: str, directory: str | None, timeout_seconds: float = 120.0) -> str:
        """Take a savepoint and return its path; `directory` None is the cluster's own.

        Raises:
            EnvironmentFailure: it failed, or was not complete in time.
        """
        body: dict[str, Any] = {"cancel-job": False}
        if directory:
            body["target-directory"] = directory
        request = self._request("POST", f"/jobs/{job_id}/savepoints", body)["request-id"]
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            status = self._get(f"/jobs/{job_id}/savepoints/{request}")
            if status["status"]["id"] == "COMPLETED":
                operation = status["operation"]
                if "location" in operation:
                    return str(operation["location"])
                reason = operation["failure-cause"]["stack-trace"].splitlines()[0]
                raise EnvironmentFailure(f"savepoint of job {job_id} failed: {reason}")
            time.sleep(_OPERATION_POLL_SECONDS)
        raise EnvironmentFailure(
            f"savepoint of job {job_id} was not complete within {timeout_seconds:g} s"
        )

    def await_end(self, job_id: str, timeout_seconds: float = 60.0) -> FlinkJob | None:
        """Wait until the job is over; return it, or None when the cluster no longer knows it.

        Raises:
            EnvironmentFailure: it still runs after `timeout_seconds`.
        """
        deadline = time.monotonic() + timeout_seconds
        while (job := self.job(job_id)) is not None and not job.is_over:
            if time.monotonic() > deadline:
                raise EnvironmentFailure(
                    f"job {job_id} on {self.master} is {job.state} after {timeout_seconds:g} s"
                )
            time.sleep(_OPERATION_POLL_SECONDS)
        return job

    def _get(self, path: str) -> Any:
        return self._request("GET", path, None)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        request = urllib.request.Request(
            f"http://{self.master}/v1{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _opener.open(request, timeout=self._timeout_seconds) as response:
                return json.loads(response.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:  # no JobManager is the leader yet
                raise FlinkUnreachableError(f"Flink at {self.master} is not ready") from None
            raise FlinkRefusedError(
                f"Flink at {self.master} answered {method} {path} with {error.code}: "
                f"{_reason_in(error.read())}",
                error.code,
            ) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise FlinkUnreachableError(
                f"Flink at {self.master} does not answer ({reason})"
            ) from None


def _reason_in(answer: bytes) -> str:
    """Return the first line of the errors in a refusal."""
    try:
        errors = [text for text in json.loads(answer)["errors"] if text]
    except (ValueError, LookupError, TypeError):
        return answer[:200].decode("utf-8", "replace")
    lines = [line for text in errors for line in text.splitlines()]
    caused = [line for line in lines if line.startswith("Caused by: ")]
    reasons: list[str] = caused[-1:] or lines or ["Flink gives no reason"]
    return reasons[0][:300]
