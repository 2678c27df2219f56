"""The examples in the docstrings of the package are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import beam_pipeline

ROOT = Path(beam_pipeline.__file__).parent
MODULES = sorted(
    ".".join(("beam_pipeline", *path.relative_to(ROOT).with_suffix("").parts))
    for path in ROOT.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
