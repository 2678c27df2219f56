"""Clocks that are off, and windows that several epochs write."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable

import pyarrow.parquet as pq
import pytest
from faults.scenario import SUPERVISOR, Scenario

from beam_pipeline.files.names import OutputFile


@pytest.mark.faults
def test_producers_whose_clocks_are_off(scenario: Callable[..., Scenario]) -> None:
    """Hours behind and ahead, within the limits and beyond them, out of order, twice the same."""
    skewed = scenario("clock-skewed producers")
    skewed.load.skewed_clocks = True
    skewed.start()
    skewed.load.start()
    for _ in range(2):
        skewed.await_progress()
        time.sleep(skewed.random.uniform(5, 15))
        skewed.kill(SUPERVISOR)
    skewed.await_progress()
    skewed.settle()

    codes = Counter(letter["error"]["code"] for letter in skewed.run.letters())
    assert codes["TOO_OLD"] > 50
    assert codes["IN_THE_FUTURE"] > 50
    ages = Counter(
        (row["kafka_timestamp"] - row["event_time"]).total_seconds() // 3600
        for row in skewed.run.rows()
    )
    assert min(ages[hours] for hours in (160, 26, 6)) > 50
    assert_each_row_in_its_window(skewed)


@pytest.mark.faults
def test_epochs_that_share_windows(scenario: Callable[..., Scenario]) -> None:
    """Long windows that are written early, and a restart in the middle of them."""
    sharing = scenario("epochs sharing windows", "--window_seconds=60", "--early_pane_seconds=2")
    sharing.start()
    sharing.load.start()
    for number in range(3):
        sharing.await_progress()
        time.sleep(sharing.random.uniform(0, 10))
        if number == 1:
            sharing.terminate()
            sharing.start()
        else:
            sharing.kill(SUPERVISOR)
    sharing.await_progress()
    sharing.settle()

    epochs = defaultdict(set)
    for path in sharing.files():
        file = OutputFile.parse(path)
        assert file is not None
        epochs[file.window_start, file.shard].add(file.epoch)
    assert max(len(found) for found in epochs.values()) >= 2
    assert_each_row_in_its_window(sharing)


def assert_each_row_in_its_window(settled: Scenario) -> None:
    for path in settled.files():
        file = OutputFile.parse(path)
        assert file is not None
        times = pq.read_table(path, columns=["event_time"], partitioning=None)["event_time"]
        for time_of_row in times.to_pylist():
            assert file.window_start <= time_of_row < file.window_end, path
