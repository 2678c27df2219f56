"""The checks before a run that need no cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from output_trees import OutputTree
from pipeline_settings import settings_of

from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.preflight import check_dead_letter_suffix, local_checks


@pytest.mark.parametrize(
    ("topics", "suffix", "reason"),
    [
        (["orders"], "", "is an input topic itself"),
        (["orders", "orders-b"], "-b", "orders-b is an input topic itself"),
        (["orders"], " x", "is no name for a topic"),
        (["orders"], "/x", "is no name for a topic"),
        (["orders"], "y" * 245, "is no name for a topic"),
        (["orders"], "é", "is no name for a topic"),
    ],
)
def test_a_suffix_that_makes_no_dead_letter_topic_is_refused(
    topics: list[str], suffix: str, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refusal:
        check_dead_letter_suffix(topics, suffix)
    assert str(refusal.value).startswith("--dead_letter_topic_suffix=")


def test_a_usual_suffix_is_taken() -> None:
    check_dead_letter_suffix(["orders", "clicks"], ".dlq")


def test_a_directory_keeps_its_partition_keys(tmp_path: Path) -> None:
    tree = OutputTree(tmp_path)
    tree.parquet([("orders", 0, 0)])
    same = f"--output_dir={tree.output_dir}"
    (look,) = (check.look for check in local_checks(settings_of(same)) if check.name == "output")
    assert str(tree.output_dir) in look().text
    others = settings_of(same, "--partition_keys=day,hour")
    (look,) = (check.look for check in local_checks(others) if check.name == "output")
    with pytest.raises(UsageError, match=r"has files below dt=…/hour=….*--partition_keys=dt,hour"):
        look()


@pytest.mark.parametrize(
    ("output", "dead", "where"),
    [
        ("x", "x", "is --output_dir"),
        ("x", "x/dead", "lies inside --output_dir"),
        ("x/out", "x", "contains --output_dir"),
        ("x", "link", "is --output_dir"),
        ("x", "link/dead", "lies inside --output_dir"),
        ("x", "x-dead", None),
    ],
)
def test_dead_letters_among_the_parquet_files_are_warned_of(
    tmp_path: Path, output: str, dead: str, where: str | None
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("x")
    settings = settings_of(
        f"--output_dir={tmp_path / output}", f"--dead_letter_dir={tmp_path / dead}"
    )
    (look,) = (each.look for each in local_checks(settings) if each.name == "dead letters")
    observation = look()
    assert ("readers of all files" in observation.text) == (where is not None)
    if where is not None:
        assert observation.is_warning
        assert where in observation.text
        assert "give two directories side by side" in observation.text
