"""The failure seam: which rows of a batch go on, and which are refused."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.transforms.batches import Refusal, apply_or_split, split_on_error


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_only_the_rows_at_fault_are_split_off(rows: int, faults: set[int]) -> None:
    batch = pa.RecordBatch.from_pydict({"n": pa.array(range(rows), pa.int64())})

    def refuse(piece: pa.RecordBatch) -> pa.RecordBatch:
        at_fault = faults.intersection(piece.column("n").to_pylist())
        if at_fault:
            raise ValueError(f"{at_fault}")
        return piece

    kept: list[int] = []
    refused: list[int] = []
    for result in apply_or_split(batch, refuse):
        if isinstance(result, Refusal):
            refused.append(result.row)
            assert str(result.error) == f"{{{result.row}}}"
        else:
            kept.extend(result.column("n").to_pylist())
    assert kept == [n for n in range(rows) if n not in faults]
    assert refused == [n for n in range(rows) if n in faults]


@given(st.integers(0, 40), st.sets(st.integers(0, 39)))
def test_results_and_refusals_come_in_the_order_of_the_rows(rows: int, faults: set[int]) -> None:
    def refuse(start: int, end: int) -> list[int]:
        if faults.intersection(range(start, end)):
            raise ValueError
        return list(range(start, end))

    seen: list[int] = []
    for result in split_on_error(refuse, rows):
        seen.extend([result.row] if isinstance(result, Refusal) else result)
    assert seen == list(range(rows))


def test_other_exceptions_are_raised() -> None:
    def fail(_start: int, _end: int) -> None:
        raise RuntimeError("not a refusal")

    with pytest.raises(RuntimeError, match="not a refusal"):
        list(split_on_error(fail, 4, (ValueError,)))


def test_a_slice_fails_for_its_own_rows_only() -> None:
    """pyarrow 23 casts the values of the neighbours too, and fails on them."""

    def to_integers(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.set_column(0, "n", pc.cast(batch.column("n"), pa.list_(pa.int64())))

    whole = pa.RecordBatch.from_pydict({"n": pa.array([["1"], ["2"], ["x"]])})
    (result,) = apply_or_split(whole.slice(0, 2), to_integers)
    assert isinstance(result, pa.RecordBatch)
    assert result.column("n").to_pylist() == [[1], [2]]
