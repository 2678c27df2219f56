"""Find Prism, Beam's local portable runner, in the cache, or build it from source; and start it.

It is built with the changes in `prism.patch`; the released binary lacks them. See
docs/design/0022-prism-with-a-patch.md.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

from beam_pipeline.runtime.processes import LOOPBACK, ManagedProcess, Service, free_port
from beam_pipeline.runtime.programs.go import GoProgram, find_program, look_for_program
from beam_pipeline.runtime.programs.progress import SetupProgress

_MODULE, _PACKAGE = "github.com/apache/beam/sdks/v2", "./go/cmd/prism"
_PATCH = Path(__file__).with_name("prism.patch")


def find_prism(progress: SetupProgress) -> Path:
    """Return the Prism binary of the installed Beam's version, with the changes in `prism.patch`.

    It is that of `look_for_prism`, or else it is built, which takes about two minutes.

    Raises:
        EnvironmentFailure: it can't be built, or the one in the cache can't be executed.
    """
    return find_program(_prism(), progress)


def look_for_prism() -> Path | None:
    """Return the Prism binary if it is in the cache; build nothing.

    Raises:
        EnvironmentFailure: it can't be executed.
    """
    return look_for_program(_prism())


def prism_release() -> str:
    """Return the release of Prism that goes with the installed Beam."""
    return f"v{version('apache-beam')}"


def _prism() -> GoProgram:
    return GoProgram("Prism", _MODULE, prism_release(), _PACKAGE, _PATCH)


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
