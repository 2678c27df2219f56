"""Programs in Go: what can't be built or started is told in one line."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from stores import Store, find_s3

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.programs.go import GoProgram, find_program, look_for_program
from beam_pipeline.runtime.programs.progress import SetupProgress
from beam_pipeline.runtime.programs.versitygw import start_versitygw


def test_a_module_that_can_not_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("go") is None:
        pytest.skip("without a Go toolchain one would be installed from the network")
    monkeypatch.setenv("BEAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GOPROXY", "off")
    program = GoProgram("Example", "example.invalid/module", "v1.0.0", "./cmd/example")
    with pytest.raises(EnvironmentFailure, match=r"^Example v1\.0\.0 can't be built: ") as raised:
        find_program(program, SetupProgress())
    assert "\n" not in str(raised.value)
    assert look_for_program(program) is None
    assert list((tmp_path / "cache" / "tmp").iterdir()) == []


def test_the_data_of_a_store_are_private(s3_server: Store) -> None:
    assert stat.S_IMODE((s3_server.directory / "tests").stat().st_mode) == 0o700


def test_a_store_on_a_port_that_is_taken(s3_server: Store, tmp_path: Path) -> None:
    port = int(s3_server.service.endpoint.rpartition(":")[2])
    with pytest.raises(EnvironmentFailure, match=f"S3 server: port {port}"):
        start_versitygw(
            find_s3(),
            tmp_path / "data",
            tmp_path / "log",
            access_key="access",
            secret_key="secret",
            bucket="tests",
            port=port,
        )
