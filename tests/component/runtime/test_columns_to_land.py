"""The columns that enrichment and transforms add, found by a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from output_trees import OutputTree
from pipeline_settings import settings_of

from beam_pipeline.errors import UsageError
from beam_pipeline.runtime.held_columns import check_columns, columns_to_land, note_columns

TRANSFORMS = """
import pyarrow as pa

print("loaded")

def add_band(batch):
    return batch.add_column(0, "band", pa.array(["a"] * batch.num_rows, pa.string()))

def add_other_band(batch):
    return batch.add_column(0, "band", pa.array([1] * batch.num_rows, pa.int64()))

def add_twin(batch):
    return batch.add_column(0, "BAND", pa.array([1] * batch.num_rows, pa.int64()))
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OutputTree:
    """A directory below a place with transforms and an enriched schema."""
    (tmp_path / "bands.py").write_text(TRANSFORMS)
    (tmp_path / "regions.csv").write_text("country,region\nDE,Europe\n")
    schema = {
        "type": "object",
        "properties": {
            "country": {"type": "string"},
            "total": {"type": "string", "x-decimal": {"precision": 10, "scale": 2}},
        },
        "x-enrich": [
            {
                "add": "region",
                "lookup": {"table": "regions.csv", "key": "country", "value": "region"},
            }
        ],
    }
    (tmp_path / "event.json").write_text(json.dumps(schema))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return OutputTree(tmp_path)


def flags(tree: OutputTree, *more: str) -> list[str]:
    return [
        f"--schema={tree.root / 'event.json'}",
        f"--reference_dir={tree.root}",
        f"--output_dir={tree.output_dir}",
        *more,
    ]


def test_columns_of_enrichment_and_transforms_are_compared_too(tree: OutputTree) -> None:
    landed = settings_of(*flags(tree, "--transform=bands:add_band"))
    columns = columns_to_land(landed, landed.contract())
    assert columns["region"] == columns["band"] == columns["country"] == "string"
    assert columns["total"] == "decimal128(10, 2)"
    assert columns["extra"] == "JSON text"
    tree.parquet([("orders", 0, 0)])
    note_columns(tree.output_dir, columns, landed)
    assert check_columns(landed) == []
    with pytest.raises(UsageError, match="column 'band' is string and int64"):
        check_columns(settings_of(*flags(tree, "--transform=bands:add_other_band")))
    [notice] = check_columns(settings_of(*flags(tree)))
    assert notice.endswith("new files will not have: band")


def test_a_transform_that_adds_a_twin_of_a_column_is_one_line(tree: OutputTree) -> None:
    twice = ("--transform=bands:add_band", "--transform=bands:add_twin")
    twins = settings_of(*flags(tree, *twice))
    with pytest.raises(UsageError, match="'BAND' and 'band', which differ in case alone"):
        columns_to_land(twins, twins.contract())


def test_an_added_column_that_differs_in_case_from_a_field_is_one_line(tree: OutputTree) -> None:
    path = tree.root / "event.json"
    path.write_text(path.read_text().replace('"add": "region"', '"add": "Country"'))
    twins = settings_of(*flags(tree))
    with pytest.raises(UsageError, match="has a column 'Country' already as 'country'"):
        columns_to_land(twins, twins.contract())
