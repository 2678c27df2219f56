"""What a cluster of the user's lacks is told before a job is submitted, and by the doctor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rest_answers import Answers, answering

from beam_pipeline.cli import main
from beam_pipeline.runtime.flink.preflight import is_this_machine, task_manager_hosts, unshared
from beam_pipeline.runtime.flink.rest import FlinkRest
from beam_pipeline.runtime.processes import free_port

ELSEWHERE = "192.0.2.7"  # TEST-NET-1 of RFC 5737, nobody's
MOUNTS = """21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /shared rw - nfs4 server:/export rw
"""


def test_addresses_of_this_machine() -> None:
    assert is_this_machine("127.0.0.1")
    assert is_this_machine("localhost")
    assert not is_this_machine(ELSEWHERE)
    assert not is_this_machine("no-such-host.invalid")


def test_workers_elsewhere_and_a_local_directory_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    monkeypatch.setattr("beam_pipeline.files.mounts._MOUNTS", table)
    directories = {"--output_dir": Path("/data/out"), "--dead_letter_dir": Path("/shared/dead")}
    (told,) = unshared(["127.0.0.1", ELSEWHERE], directories)
    assert told.startswith("--output_dir=/data/out is on this machine's own storage (ext4)")
    assert f"workers run on {ELSEWHERE}" in told
    assert list(unshared(["127.0.0.1"], directories)) == []


@pytest.fixture
def answers() -> Answers:
    """A cluster of one TaskManager on another machine."""
    path = f"pekko.tcp://flink@{ELSEWHERE}:37011/user/rpc/taskmanager_0"
    overview = {
        "flink-version": "1.19.3",
        "taskmanagers": 1,
        "slots-total": 2,
        "slots-available": 1,
    }
    return {
        ("GET", "/v1/overview"): (200, overview),
        ("GET", "/v1/taskmanagers"): (200, {"taskmanagers": [{"path": path}]}),
        ("GET", "/v1/jobmanager/environment"): (200, {"classpath": "/lib/flink-dist.jar"}),
    }


@pytest.fixture
def rest(answers: Answers) -> Iterator[FlinkRest]:
    with answering(answers) as client:
        yield client


def findings(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    main(["doctor", "--engine=flink", "--json", *flags])
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)}


def test_the_doctor_looks_at_a_cluster(
    rest: FlinkRest, answers: Answers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert task_manager_hosts(rest) == [ELSEWHERE]
    pool = f"127.0.0.1:{rest.master.rpartition(':')[2]}"  # something that listens
    flags = [f"--flink_master={rest.master}", f"--output_dir={tmp_path}/output"]
    found = findings(capsys, *flags, "--worker_pool=pool.invalid:1")
    assert found["Flink"] == {
        **{"name": "Flink", "state": "ok"},
        "text": f"1.19.3 at http://{rest.master}",
    }
    assert found["slots"]["state"] == "wrong"
    assert "1 of 2 task slots are free, and --parallelism=2" in found["slots"]["text"]
    assert found["worker pools"]["state"] == "wrong"
    assert "nothing listens at pool.invalid:1" in found["worker pools"]["text"]
    assert found["Beam's jars"]["state"] == "note"
    assert found["storage"]["state"] == "note"
    assert f"--output_dir={tmp_path}/output is on" in found["storage"]["text"]
    assert "Prism" not in found

    answers["GET", "/v1/jobmanager/environment"] = (200, {"classpath": "/beam-runners-flink.jar"})
    found = findings(capsys, *flags, f"--worker_pool={pool}", "--parallelism=1")
    # A pool on a loopback address is one beside each TaskManager.
    assert f"nothing listens at {ELSEWHERE}:" in found["worker pools"]["text"]
    assert {found[name]["state"] for name in ("slots", "Beam's jars")} == {"ok"}

    answers["GET", "/v1/overview"] = (
        200,
        {**answers["GET", "/v1/overview"][1]} | {"flink-version": "1.20.0"},
    )
    found = findings(capsys, *flags)
    assert "runs Flink 1.20.0" in found["Flink"]["text"]
    assert "slots" not in found


def test_the_doctor_without_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    found = findings(capsys, f"--flink_master={nobody}")
    assert found["Flink"]["state"] == "wrong"
    assert f"Flink at {nobody} does not answer" in found["Flink"]["text"]

    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path))
    found = findings(capsys)
    assert found["Flink"] == {
        **{"name": "Flink", "state": "note"},
        "text": "not in the cache; the first start fetches 230 MB from PyPI",
    }
