"""Names of a table that both those who write it and those who check it know. Pure."""

from __future__ import annotations

import re
from pathlib import Path

from beam_pipeline.errors import UsageError

TABLE_DIRECTORY = "_table"
"""Below the output directory: links to the landed files, and the embedded catalog. Readers of the
directory skip names with an underscore."""

EMBEDDED_FILE = "catalog.db"
"""The embedded catalog, in that directory."""

LETTERS_SUFFIX = "__dead_letters"

_NAME = re.compile(r"[A-Za-z0-9_]{1,100}(?:\.[A-Za-z0-9_]{1,100})+", re.ASCII)


def check_name(name: str) -> None:
    """Check a value of `--table`.

    Raises:
        UsageError: it does not serve.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"--table={name}: must be NAMESPACE.NAME, such as lake.orders, of letters, digits and "
            "underscores"
        )
    if name.endswith(LETTERS_SUFFIX):
        raise UsageError(f"--table={name}: tables of dead letters have the suffix {LETTERS_SUFFIX}")


def letters_name(name: str) -> str:
    """Return the name of the table of the dead letters."""
    return f"{name}{LETTERS_SUFFIX}"


def table_directory(output_dir: Path) -> Path:
    """Return where links and the embedded catalog are, absolute."""
    return output_dir.absolute() / TABLE_DIRECTORY
