"""Files with secrets that flags name: whether other users of the machine can read them."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from beam_pipeline.settings.masking import masked


def open_file_warning(flag: str, path: Path, content: Mapping[str, str]) -> str | None:
    """Return a warning if every user of the machine can read a file with secrets; else None.

    Args:
        flag: the flag that names the file.
        path: the file.
        content: what was read from it, by name.
    """
    if not path.stat().st_mode & stat.S_IROTH:
        return None
    if all(masked(name, value) == value for name, value in content.items()):
        return None
    return (
        f"{flag}={path} has secrets, and every user of this machine can read it; "
        f"take that away with chmod o= {path}"
    )
