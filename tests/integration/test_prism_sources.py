"""What `prism.patch` is for: bundles of a source, its watermark, counters, and what Prism costs."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics, MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import BagStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from beam_pipeline.runtime.processes import Service

BLOCK = 1 << 20
BLOCKS = 120
MAX_BUNDLE_BLOCKS = 60
START = Timestamp.of(1_000_000)


@pytest.fixture
def options(prism_endpoint: str) -> PipelineOptions:
    """For jobs on a Prism."""
    return PipelineOptions(
        [
            *("--runner=PortableRunner", "--streaming", "--environment_type=LOOPBACK"),
            f"--job_endpoint={prism_endpoint}",
        ]
    )


class AtOnce(OffsetRestrictionTracker):
    """It can be stopped where it is, and not be halved: as KafkaIO's."""

    def try_split(self, fraction_of_remainder: float) -> Any:
        return None if fraction_of_remainder else super().try_split(fraction_of_remainder)


class Blocks(RestrictionProvider):
    """Restrictions of `BLOCKS` positions."""

    def initial_restriction(self, element: Any) -> OffsetRange:
        return OffsetRange(0, BLOCKS)

    def create_tracker(self, restriction: OffsetRange) -> AtOnce:
        return AtOnce(restriction)

    def restriction_size(self, element: Any, restriction: OffsetRange) -> int:
        return int(restriction.size())


class FromStart(WatermarkEstimatorProvider):
    """A watermark that the reader moves by hand."""

    def initial_estimator_state(self, element: Any, restriction: OffsetRange) -> Timestamp:
        return START

    def create_watermark_estimator(self, state: Timestamp) -> ManualWatermarkEstimator:
        return ManualWatermarkEstimator(state)


RESTRICTION = beam.DoFn.RestrictionParam(Blocks())
WATERMARK = beam.DoFn.WatermarkEstimatorParam(FromStart())


class ReadAll(beam.DoFn):
    """Reads its whole backlog in one call, as KafkaIO does; (bundle, block) out."""

    def start_bundle(self) -> None:
        self._bundle = uuid.uuid4().hex

    @beam.DoFn.unbounded_per_element()
    def process(self, element: Any, tracker: Any = RESTRICTION) -> Iterator[tuple[str, bytes]]:
        position = tracker.current_restriction().start
        while tracker.try_claim(position):
            time.sleep(0.01)
            yield self._bundle, bytes(BLOCK)
            position += 1


def in_bounded_bundles(told: list[tuple[str, int]]) -> None:
    blocks: dict[str, int] = {}
    for bundle, count in told:
        blocks[bundle] = blocks.get(bundle, 0) + count
    assert sum(blocks.values()) == BLOCKS
    assert max(blocks.values()) < MAX_BUNDLE_BLOCKS, blocks


def test_a_backlog_is_read_in_bundles_of_some_size(options: PipelineOptions) -> None:
    with TestPipeline(options=options) as pipeline:
        read = pipeline | beam.Create([0]) | "ReadAll" >> beam.ParDo(ReadAll())
        apart = read | beam.Reshuffle()  # or the blocks would not leave the reader's stage
        assert_that(apart | beam.MapTuple(lambda bundle, block: (bundle, 1)), in_bounded_bundles)


class CountBundles(beam.DoFn):
    """Anything to the number of elements of each bundle."""

    def start_bundle(self) -> None:
        self._elements = 0

    def process(self, element: Any) -> None:
        self._elements += 1

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield WindowedValue(self._elements, START, (GlobalWindow(),))


def in_bundles_of_16_mb(bundles: list[int]) -> None:
    assert sum(bundles) == BLOCKS
    assert max(bundles) <= 16


def test_an_element_counts_with_the_file_that_it_names(options: PipelineOptions) -> None:
    names = [f"/packs/{number}.{BLOCK}.pack" for number in range(BLOCKS)]
    with TestPipeline(options=options) as pipeline:
        named = pipeline | beam.Create(names) | beam.Reshuffle()
        assert_that(named | beam.ParDo(CountBundles()), in_bundles_of_16_mb)


class ReadSlowly(beam.DoFn):
    """Element n gives one row for each second of event time, and takes n / 10 s for it; then the
    SDK is to come again. ((key, n), second) out."""

    SECONDS = 8

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: int,
        tracker: Any = RESTRICTION,
        watermark: Any = WATERMARK,
    ) -> Iterator[TimestampedValue[Any]]:
        position = tracker.current_restriction().start
        if position == self.SECONDS:
            while tracker.try_claim(position):
                position += 1
            return
        if tracker.try_claim(position):
            # Slow enough at first that a runner gives them bundles of their own.
            time.sleep(element / 10 if position else 1)
            yield TimestampedValue((f"at {position}", element), START + position)
            watermark.set_watermark(START + position)
            tracker.defer_remainder(Duration.of(0))


class AreComplete(beam.DoFn):
    """Per key, how many rows there are once the watermark has passed them."""

    ROWS = BagStateSpec("rows", beam.coders.VarIntCoder())
    PASSED = TimerSpec("passed", TimeDomain.WATERMARK)

    def process(
        self,
        keyed: tuple[str, int],
        timestamp: Any = beam.DoFn.TimestampParam,
        rows: Any = beam.DoFn.StateParam(ROWS),
        passed: Any = beam.DoFn.TimerParam(PASSED),
    ) -> None:
        rows.add(keyed[1])
        passed.set(timestamp + Duration.of(0.5))

    @on_timer(PASSED)
    def tell(
        self, key: Any = beam.DoFn.KeyParam, rows: Any = beam.DoFn.StateParam(ROWS)
    ) -> Iterator[tuple[str, int]]:
        yield key, len(list(rows.read()))
        rows.clear()


def each_complete_at_once(told: list[tuple[str, int]]) -> None:
    assert sorted(told) == [(f"at {second}", 3) for second in range(ReadSlowly.SECONDS)]


def test_the_watermark_waits_for_the_slowest(options: PipelineOptions) -> None:
    with TestPipeline(options=options) as pipeline:
        read = pipeline | beam.Create([0, 1, 5]) | "ReadSlowly" >> beam.ParDo(ReadSlowly())
        keyed = read | beam.Map(lambda row: row).with_output_types(tuple[str, int])
        told = keyed | "AreComplete" >> beam.ParDo(AreComplete())
        assert_that(told, each_complete_at_once)


ELEMENTS = 8
TOGETHER = threading.Barrier(ELEMENTS)


class CountAtTheEnd(beam.DoFn):
    """Its bundles end at one time, each with a counter that the runner has not heard of."""

    @beam.DoFn.unbounded_per_element()
    def process(self, element: int, tracker: Any = RESTRICTION) -> Iterator[int]:
        position = tracker.current_restriction().start
        while tracker.try_claim(position):
            position += 1
        TOGETHER.wait(30)
        yield element

    def finish_bundle(self) -> None:
        Metrics.counter("test", "bundles").inc()


def test_bundles_that_end_at_one_time_are_all_counted(options: PipelineOptions) -> None:
    with TestPipeline(options=options) as pipeline:
        _ = pipeline | beam.Create(range(ELEMENTS)) | "CountAtTheEnd" >> beam.ParDo(CountAtTheEnd())
    assert pipeline.result is not None
    (bundles,) = pipeline.result.metrics().query(MetricsFilter().with_name("bundles"))["counters"]
    assert bundles.result == ELEMENTS


SLOW_SECONDS = 4.0


class TakeLong(beam.DoFn):
    """A last step, whose bundle has no output to wait for."""

    def process(self, element: int) -> None:
        time.sleep(SLOW_SECONDS)


def test_a_bundle_is_waited_for_without_a_core(options: PipelineOptions, prism: Service) -> None:
    """Processor time and not a clock: however busy the machine, what waits takes next to none."""
    with TestPipeline(options=options) as pipeline:
        before = processor_seconds(prism.process.pid)
        _ = pipeline | beam.Create([0]) | beam.Reshuffle() | "TakeLong" >> beam.ParDo(TakeLong())
    assert processor_seconds(prism.process.pid) - before < SLOW_SECONDS / 4


class FireSlowly(beam.DoFn):
    """(key, value) to nothing. While a timer of the key takes long, another one becomes due."""

    SLOW = TimerSpec("slow", TimeDomain.REAL_TIME)
    DUE = TimerSpec("due", TimeDomain.REAL_TIME)

    def process(
        self,
        element: tuple[str, int],
        slow: Any = beam.DoFn.TimerParam(SLOW),
        due: Any = beam.DoFn.TimerParam(DUE),
    ) -> None:
        slow.set(Timestamp.now())
        due.set(Timestamp.now() + Duration(seconds=1))

    @on_timer(SLOW)
    def fire_slowly(self) -> None:
        time.sleep(SLOW_SECONDS)

    @on_timer(DUE)
    def fire(self) -> Iterator[str]:
        yield "fired"


def told_once(told: list[str]) -> None:
    assert told == ["fired"]


def test_a_timer_waits_for_its_key_without_a_core(options: PipelineOptions, prism: Service) -> None:
    with TestPipeline(options=options) as pipeline:
        before = processor_seconds(prism.process.pid)
        keyed = pipeline | beam.Create([("key", 1)]).with_output_types(tuple[str, int])
        assert_that(keyed | "FireSlowly" >> beam.ParDo(FireSlowly()), told_once)
    assert processor_seconds(prism.process.pid) - before < SLOW_SECONDS / 4


def processor_seconds(pid: int) -> float:
    """User's and system's, fields 14 and 15 of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
