"""State on Prism outlives a slow bundle that Prism would like to split."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.coders import VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from beam_pipeline.io.whole_bundles import keep_stateful_bundles_whole
from beam_pipeline.runtime.prism import find_prism, start_prism
from beam_pipeline.runtime.progress import SetupProgress

KEYS = [f"key {number}" for number in range(8)]
ROUNDS = list(range(18))
SLOW_ROUNDS = (3, 8, 13)


class Collect(beam.DoFn):
    """(key, number) to (key, all its numbers), at the end of the input.

    The first element of a slow round stands still for a while.
    """

    NUMBERS = BagStateSpec("numbers", VarIntCoder())
    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def setup(self) -> None:
        keep_stateful_bundles_whole()

    def process(
        self,
        keyed: tuple[str, int],
        numbers: Any = beam.DoFn.StateParam(NUMBERS),
        end: Any = beam.DoFn.TimerParam(END),
    ) -> None:
        numbers.add(keyed[1])
        end.set(GlobalWindow().max_timestamp())
        marker = self._directory / f"round {keyed[1]}"
        if keyed[1] in SLOW_ROUNDS and not marker.exists():
            marker.touch()
            time.sleep(2)

    @on_timer(END)
    def emit(
        self,
        key: Any = beam.DoFn.KeyParam,
        numbers: Any = beam.DoFn.StateParam(NUMBERS),
    ) -> Iterator[tuple[str, list[int]]]:
        yield key, sorted(numbers.read())


@pytest.fixture
def prism_endpoint(tmp_path: Path) -> Iterator[str]:
    """Where a Prism takes jobs."""
    with SetupProgress() as progress:
        binary = find_prism(progress)
    prism = start_prism(binary, tmp_path / "prism.log")
    try:
        prism.wait_ready()
        yield prism.endpoint
    finally:
        prism.process.terminate(5)


def test_what_a_slow_bundle_adds_to_its_state_is_kept(prism_endpoint: str, tmp_path: Path) -> None:
    # While one bundle stands still, the watermark goes on, and others could run.
    options = PipelineOptions(
        [
            *("--runner=PortableRunner", "--streaming", "--environment_type=LOOPBACK"),
            f"--job_endpoint={prism_endpoint}",
        ]
    )
    start = Timestamp.now() + 3  # the pipeline is up by then, and each round a bundle of its own
    with TestPipeline(options=options) as pipeline:
        rounds = pipeline | "Rounds" >> PeriodicImpulse(
            start_timestamp=start, stop_timestamp=start + 9, fire_interval=0.5, data=ROUNDS
        )
        keyed = rounds | "Key" >> beam.FlatMap(
            lambda number: [(key, number) for key in KEYS]
        ).with_output_types(tuple[str, int])
        collected = keyed | "Collect" >> beam.ParDo(Collect(tmp_path))
        assert_that(collected, equal_to([(key, ROUNDS) for key in KEYS]))
