"""The worker's benchmark measures the compiled contract, as a run has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_pipeline.compiled import prover as provers
from beam_pipeline.compiled.kernel import KernelLibrary
from bench import worker
from bench.worker import PARTS_OF_VALIDATE, STAGES, measured, write_packs


def test_the_kernel_is_measured_unless_it_is_off(
    kernel_library: KernelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provers, "marker_directory", lambda: tmp_path / "markers")
    monkeypatch.setattr(worker, "look_for_kernel", lambda: kernel_library)
    packs = tmp_path / "packs.arrow"
    write_packs(packs, 16_000, invalid_ratio=0.1, seed=3)
    assert measured(packs, 1, is_compiled=True).keys() == {*STAGES, *PARTS_OF_VALIDATE}
    assert "kernel" not in measured(packs, 1, is_compiled=False)
