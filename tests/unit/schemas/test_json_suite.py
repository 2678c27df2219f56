"""JSONTestSuite: what is JSON becomes a row, what is none a dead letter, and nothing crashes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from beam_pipeline.config import ValidationRules
from beam_pipeline.records import ErrorCode
from beam_pipeline.schemas import Contract, load_contract
from beam_pipeline.testing import run_events

SUITE = Path(__file__).parents[2] / "data" / "json-test-suite.zip"
DECODING = {ErrorCode.MALFORMED_JSON, ErrorCode.NOT_UTF8, ErrorCode.TOO_DEEP}

# What RFC 8259 leaves open ("i_" in the suite) and is taken here: integers of any length, and
# numbers so small that a double is zero. Refused are lone surrogates, other encodings than UTF-8,
# byte order marks, numbers beyond a double, and more than 200 levels.
TAKEN = {
    "i_number_double_huge_neg_exp.json",
    "i_number_real_underflow.json",
    "i_number_too_big_neg_int.json",
    "i_number_too_big_pos_int.json",
    "i_number_very_big_negative_int.json",
}


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Contract:
    path = tmp_path_factory.mktemp("schema") / "anything.json"
    path.write_text("{}")
    return load_contract(path)


def cases() -> list[str]:
    with zipfile.ZipFile(SUITE) as suite:
        return [name for name in suite.namelist() if name.startswith("test_parsing/")]


def test_the_suite_is_whole() -> None:
    kinds = [Path(name).name[0] for name in cases()]
    assert [kinds.count(kind) for kind in "yni"] == [95, 188, 35]


@pytest.mark.parametrize("name", cases())
def test_a_text_is_a_row_or_a_dead_letter(contract: Contract, name: str) -> None:
    with zipfile.ZipFile(SUITE) as suite:
        value = suite.read(name)
    results = run_events([value], contract, rules=ValidationRules(None))
    file = Path(name).name
    is_taken = file.startswith("y_") or file in TAKEN
    assert (len(results.rows), len(results.dead)) == (is_taken, not is_taken)
    for letter in results.dead:
        assert letter.failure.code in DECODING
        assert letter.value == value
