"""Write docs/reference/flags.md, the reference of all commands and flags."""

from __future__ import annotations

from pathlib import Path

from beam_pipeline.cli import command_parsers
from beam_pipeline.settings.reference import flags_reference

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "flags.md"

if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(flags_reference(command_parsers("./run_direct.sh")), encoding="utf-8")
