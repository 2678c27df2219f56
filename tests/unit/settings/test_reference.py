"""docs/reference/flags.md is what the parsers say."""

from __future__ import annotations

from beam_pipeline.cli import command_parsers
from beam_pipeline.resources import project_root
from beam_pipeline.settings.reference import flags_reference


def test_the_page_is_up_to_date() -> None:
    root = project_root()
    assert root is not None
    page = (root / "docs" / "reference" / "flags.md").read_text(encoding="utf-8")
    expected = flags_reference(command_parsers("./run_direct.sh"))
    assert page == expected, "run .venv/bin/python scripts/flags_reference.py"


def test_every_flag_of_a_command_is_on_the_page() -> None:
    reference = flags_reference(command_parsers())
    section = reference.split("\n## dlq replay\n")[1].split("\n## ")[0]
    for flag in ("--where", "--dry_run", "--max_attempts", "--kafka_config", "--dead_letter_dir"):
        assert f"| `{flag}` |" in section
    assert "--no_dry_run" not in section
    assert "| `--config` |" not in section
