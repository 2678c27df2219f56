"""Paths of files that come with the code: schemas, reference data, lock files.

In a checkout they are at its top level, in an installed wheel below `beam_pipeline/_resources`.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path | None:
    """Return the top directory of the checkout; None for an installed wheel."""
    top = _PACKAGE.parent
    return top if (top / "pyproject.toml").is_file() and (top / "java").is_dir() else None


def program(script: str, installed: str = "beam-pipeline") -> str:
    """Return how a user starts a command: the checkout's script, or the installed command."""
    return f"./{script}" if project_root() else installed


def event_schema_path() -> Path:
    """Return the JSON Schema of the default events."""
    return _resource("schema") / "commerce_event.schema.json"


def dead_letter_schema_path() -> Path:
    """Return the JSON Schema of one line of a dead-letter file."""
    return _resource("schema") / "dead_letter.schema.json"


def reference_dir() -> Path:
    """Return the directory of the reference tables for enrichment."""
    return _resource("data/reference")


def java_lock_path(name: str) -> Path:
    """Return the lock file of Java artifacts: "expansion", "kafka", "flink" or "compiler"."""
    return _resource("java") / f"{name}.lock"


def java_source_dir() -> Path:
    """Return the directory of the project's own Java classes."""
    return _resource("java") / "src"


def requirements_path(name: str) -> Path:
    """Return the pip requirements of a tool: "java", "go", "zig", "flink" or "flink-build"."""
    return _resource("requirements") / f"{name}.txt"


def _resource(relative: str) -> Path:
    return (project_root() or _PACKAGE / "_resources") / relative
