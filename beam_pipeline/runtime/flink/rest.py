"""Flink's REST interface, as far as it is needed here.

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
# A cluster is in one's own network; Beam's job server knows no proxy either.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class FlinkUnreachableError(EnvironmentFailure):
    """No answer from the cluster."""


class FlinkRefusedError(EnvironmentFailure):
    """The cluster answered with an error; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class ClusterOverview:
    """What a cluster is and has."""

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
        """Address of the web UI."""
        return f"http://{self.master}"

    def overview(self) -> ClusterOverview:
        """Version and slots."""
        found = self._get("/overview")
        try:
            return ClusterOverview(
                version=found["flink-version"],
                task_managers=found["taskmanagers"],
                slots=found["slots-total"],
                free_slots=found["slots-available"],
            )
        except (LookupError, TypeError):
            raise FlinkUnreachableError(f"what answers at {self.master} is not Flink") from None

    def class_path(self) -> str:
        """The JobManager's class path."""
        return str(self._get("/jobmanager/environment")["classpath"])

    def configuration(self) -> dict[str, str]:
        """The JobManager's configuration; secrets are masked by Flink."""
        return {entry["key"]: entry["value"] for entry in self._get("/jobmanager/config")}

    def jobs(self) -> list[FlinkJob]:
        """Every job the cluster knows, the newest first."""
        found = sorted(self._get("/jobs/overview")["jobs"], key=lambda job: -job["start-time"])
        return [FlinkJob(job["jid"], job["name"], job["state"]) for job in found]

    def job(self, job_id: str) -> FlinkJob | None:
        """A job, or None where the cluster does not know it."""
        try:
            found = self._get(f"/jobs/{job_id}")
        except FlinkRefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        return FlinkJob(found["jid"], found["name"], found["state"])

    def failure(self, job_id: str) -> str | None:
        """The first line of the newest exception of a job."""
        found = self._get(f"/jobs/{job_id}/exceptions")
        entries = found.get("exceptionHistory", {}).get("entries", [])
        traces = [found.get("root-exception"), *(entry.get("stacktrace") for entry in entries)]
        return next((trace.splitlines()[0] for trace in traces if trace), None)

    def checkpoints(self, job_id: str) -> Checkpoints:
        """How the job's checkpoints go."""
        found = self._get(f"/jobs/{job_id}/checkpoints")
        counts, latest = found["counts"], found["latest"]["completed"] or {}
        return Checkpoints(
            completed=counts["completed"],
            failed=counts["failed"],
            restored=counts["restored"],
            latest_path=latest.get("external_path"),
            latest_bytes=latest.get("checkpointed_size", 0),
            latest_duration_ms=latest.get("end_to_end_duration", 0),
        )

    def vertices(self, job_id: str) -> list[str]:
        """The ids of the job's vertices."""
        return [vertex["id"] for vertex in self._get(f"/jobs/{job_id}")["vertices"]]

    def subtask_metrics(
        self, job_id: str, vertex: str, names: Sequence[str] = ()
    ) -> dict[str, float]:
        """Metrics of a vertex, summed over its subtasks; without `names` only which there are."""
        path = f"/jobs/{job_id}/vertices/{vertex}/subtasks/metrics"
        if not names:
            return {found["id"]: 0.0 for found in self._get(path)}
        sums = {}
        # Flink takes a request line of 4096 bytes.
        for start in range(0, len(names), _METRICS_PER_REQUEST):
            some = ",".join(names[start : start + _METRICS_PER_REQUEST])
            for found in self._get(f"{path}?agg=sum&get={urllib.parse.quote(some)}"):
                sums[found["id"]] = float(found["sum"])
        return sums

    def metrics(self, path: str, names: str = "") -> dict[str, str]:
        """Metrics below `path`, such as `/taskmanagers/ID`; the ones named, by commas."""
        query = f"?get={urllib.parse.quote(names)}" if names else ""
        return {m["id"]: m.get("value", "") for m in self._get(f"{path}/metrics{query}")}

    def task_managers(self) -> list[dict[str, Any]]:
        """The TaskManagers, as Flink describes them."""
        found: list[dict[str, Any]] = self._get("/taskmanagers")["taskmanagers"]
        return found

    def cancel(self, job_id: str) -> None:
        """Asks for the job's end; returns before it has ended."""
        self._request("PATCH", f"/jobs/{job_id}?mode=cancel", None)

    def savepoint(self, job_id: str, directory: str | None, timeout_seconds: float = 120.0) -> str:
        """Takes a savepoint below `directory`, or where the cluster keeps them; its path.

        Raises:
            EnvironmentFailure: it did not come about.
        """
        body: dict[str, Any] = {"cancel-job": False}
        if directory:
            body["target-directory"] = directory
        request = self._request("POST", f"/jobs/{job_id}/savepoints", body)["request-id"]
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            found = self._get(f"/jobs/{job_id}/savepoints/{request}")
            if found["status"]["id"] == "COMPLETED":
                operation = found["operation"]
                if "location" in operation:
                    return str(operation["location"])
                reason = operation["failure-cause"]["stack-trace"].splitlines()[0]
                raise EnvironmentFailure(f"savepoint of job {job_id} failed: {reason}")
            time.sleep(_OPERATION_POLL_SECONDS)
        raise EnvironmentFailure(
            f"savepoint of job {job_id} did not come about within {timeout_seconds:g} s"
        )

    def await_end(self, job_id: str, timeout_seconds: float = 60.0) -> FlinkJob | None:
        """Waits until the job is over, or gone; None when it is gone.

        Raises:
            EnvironmentFailure: it still runs when the time is up.
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
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:  # no leader among the JobManagers yet
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
    """The first line of the errors in a refusal."""
    try:
        errors = [text for text in json.loads(answer)["errors"] if text]
    except (ValueError, LookupError, TypeError):
        return answer[:200].decode("utf-8", "replace")
    lines = [line for text in errors for line in text.splitlines()]
    caused = [line for line in lines if line.startswith("Caused by: ")]
    reasons: list[str] = caused[-1:] or lines or ["no reason"]
    return reasons[0][:300]
