"""What run and demo share."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from beam_pipeline.commands.launch import temporary_directory
from beam_pipeline.errors import EnvironmentFailure


def test_a_temporary_directory_that_can_not_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(EnvironmentFailure, match=r"TMPDIR=.*gone: No such file or directory; make"):
        temporary_directory("demo")
