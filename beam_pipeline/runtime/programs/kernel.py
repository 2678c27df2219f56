"""Build the kernel of compiled contracts where it runs, with the Zig compiler from PyPI."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

from beam_pipeline import compiled
from beam_pipeline.compiled.kernel import KernelLibrary
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import requirements_path
from beam_pipeline.runtime.processes import run_to_end
from beam_pipeline.runtime.programs.cache import cache_directory, move_into_cache, scratch_directory
from beam_pipeline.runtime.programs.pip_tool import pip_install
from beam_pipeline.runtime.programs.progress import SetupProgress

_SOURCES = ("kernel.zig", "text.zig")
# ReleaseSafe: an index beyond its slice, an overflow or a wrong cast is a trap, and no undefined
# behaviour. `baseline` runs on every processor of the architecture.
_OPTIONS = ("-dynamic", "-O", "ReleaseSafe", "-mcpu=baseline", "-fstrip", "-fsingle-threaded")


def look_for_kernel() -> KernelLibrary | None:
    """Return the kernel if it is in the cache; build nothing."""
    library = _library_path()
    if not library.is_file():
        return None
    return KernelLibrary(platform.machine(), library.parent.name, library.read_bytes())


def find_kernel(progress: SetupProgress) -> KernelLibrary:
    """Return the kernel from the cache, or build it first.

    The compiler is downloaded for it (100 MB), and is not kept.

    Raises:
        EnvironmentFailure: the compiler can't be had, or the kernel does not compile.
    """
    library = look_for_kernel()
    if library is None:
        with scratch_directory() as scratch:
            with progress.step("Fetching the Zig compiler (100 MB)"):
                pip_install("zig", scratch / "zig", scratch / "pip.log")
            with progress.step("Building the kernel of compiled contracts"):
                made = scratch / _library_path().parent.name
                made.mkdir()
                _compile(scratch, made / _library_path().name)
            move_into_cache(made, _library_path().parent)
        library = look_for_kernel()
        assert library is not None
    return library


def _library_path() -> Path:
    inputs = [*_source_paths(), requirements_path("zig")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:12]
    return cache_directory() / f"kernel-{platform.machine()}-{digest}" / "kernel.so"


def _source_paths() -> list[Path]:
    directory = Path(compiled.__file__).parent
    return [directory / name for name in _SOURCES]


def _compile(scratch: Path, library: Path) -> None:
    compiler = scratch / "zig" / "ziglang" / "zig"
    command = [
        *(str(compiler), "build-lib", *_OPTIONS, str(_source_paths()[0])),
        *(f"-femit-bin={library}", "--cache-dir", str(scratch / "cache")),
        *("--global-cache-dir", str(scratch / "global-cache")),
    ]
    log_file = scratch / "compiler.log"
    if run_to_end("Zig compiler", command, log_file) != 0:
        lines = log_file.read_text(errors="replace").splitlines()
        reason = next((line for line in lines if ": error: " in line), "zig gave no reason")
        raise EnvironmentFailure(f"the kernel of compiled contracts does not compile: {reason}")
