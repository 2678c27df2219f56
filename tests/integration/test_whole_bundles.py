"""A slow bundle with state runs on Prism as one, though Prism would like to split it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.transforms.periodicsequence import PeriodicImpulse
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp

from beam_pipeline.io.whole_bundles import keep_stateful_bundles_whole

KEYS = [f"key {number}" for number in range(8)]
ROUNDS = list(range(5))
SLOW_ROUND = 3


class TellBundle(beam.DoFn):
    """(key, round) to (round, the bundle it came in); one element of the slow round takes 2 s."""

    END = TimerSpec("end", TimeDomain.WATERMARK)

    def __init__(self, directory: Path) -> None:
        self._slow_once = directory / "slow"

    def setup(self) -> None:
        keep_stateful_bundles_whole()

    def start_bundle(self) -> None:
        self._bundle = uuid.uuid4().hex

    def process(
        self, keyed: tuple[str, int], end: Any = beam.DoFn.TimerParam(END)
    ) -> Iterator[tuple[int, str]]:
        end.set(GlobalWindow().max_timestamp())
        yield keyed[1], self._bundle
        if keyed[1] == SLOW_ROUND and not self._slow_once.exists():
            self._slow_once.touch()
            time.sleep(2)

    @on_timer(END)
    def end_input(self) -> None:
        """A timer makes the stage stateful; it has nothing to do."""


def in_one_bundle(told: list[tuple[int, str]]) -> None:
    bundles = [bundle for number, bundle in told if number == SLOW_ROUND]
    assert len(bundles) == len(KEYS)
    assert len(set(bundles)) == 1, f"the slow round came in {len(set(bundles))} bundles"


def test_a_slow_bundle_with_state_is_not_split(prism_endpoint: str, tmp_path: Path) -> None:
    options = PipelineOptions(
        [
            *("--runner=PortableRunner", "--streaming", "--environment_type=LOOPBACK"),
            f"--job_endpoint={prism_endpoint}",
        ]
    )
    start = Timestamp.now() + 3  # the pipeline is up by then, and each round a bundle of its own
    with TestPipeline(options=options) as pipeline:
        rounds = pipeline | "Rounds" >> PeriodicImpulse(
            start_timestamp=start, stop_timestamp=start + len(ROUNDS), fire_interval=1, data=ROUNDS
        )
        keyed = rounds | "Key" >> beam.FlatMap(
            lambda number: [(key, number) for key in KEYS]
        ).with_output_types(tuple[str, int])
        told = keyed | "TellBundle" >> beam.ParDo(TellBundle(tmp_path))
        assert_that(told, in_one_bundle)
