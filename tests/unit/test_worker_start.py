"""A Python worker tunes its process when it starts."""

from __future__ import annotations

import gc

from beam_pipeline.worker_start import tune_garbage_collector


def test_the_collector_runs_less_often() -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        tune_garbage_collector()
        assert gc.get_threshold()[0] >= 100_000
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
