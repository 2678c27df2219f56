"""The lease on an output directory, between processes and between machines."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime import lease as lease_module
from beam_pipeline.runtime.lease import EXPIRY_SECONDS, LEASE_FILE, hold_lease


def test_a_beating_holder_on_another_machine_is_respected_a_silent_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / LEASE_FILE
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "heartbeat": time.time()}))
    with (
        pytest.raises(EnvironmentFailure, match="process 7 on elsewhere"),
        hold_lease(tmp_path, "--output_dir"),
    ):
        pass
    silent = time.time() - EXPIRY_SECONDS - 1
    path.write_text(json.dumps({"host": "elsewhere", "pid": 7, "heartbeat": silent}))
    with hold_lease(tmp_path, "--output_dir"):
        assert json.loads(path.read_text())["host"] != "elsewhere"


def test_a_directory_that_vanishes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_SECONDS", 0.0)
    root = tmp_path / "out"
    with hold_lease(root, "--output_dir") as held:
        held.beat()
        root.rename(tmp_path / "gone")
        with pytest.raises(EnvironmentFailure, match="has vanished"):
            held.beat()
        (tmp_path / "gone").rename(root)
        held.beat()


def test_a_directory_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with (
        pytest.raises(EnvironmentFailure, match="--dead_letter_dir="),
        hold_lease(blocked, "--dead_letter_dir"),
    ):
        pass
