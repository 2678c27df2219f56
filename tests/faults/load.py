"""A topic under load: two producers, one with broken and late events, one with awkward times."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from integration.pipeline_runs import PipelineRun

from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.producer.events import EventFactory
from beam_pipeline.producer.source import wall_clock_ms

EVENTS_PER_SECOND = 150
LINES_PER_SECOND = 50
HOUR_MS = 3_600_000


@dataclass
class Load:
    """Runs of `produce` on one topic; they end when told to, with every record acknowledged."""

    run: PipelineRun
    kafka: KafkaConnection
    topic: str
    random: Random
    skewed_clocks: bool = False
    events_per_second: int = EVENTS_PER_SECOND
    _producers: list[subprocess.Popen[str]] = field(default_factory=list)
    _started: int = 0

    def start(self, seconds: float = 600) -> None:
        """Starts the producers; `seconds` is how long the lines last, at most."""
        self._started += 1
        seed = self.random.randrange(2**31)
        lines = self.run.directory / f"lines-{self._started}.jsonl"
        write_lines(lines, Random(seed), int(seconds * LINES_PER_SECOND), self.skewed_clocks)
        events = (
            f"--events_per_second={self.events_per_second}",
            "--invalid_ratio=0.1",
            "--late_ratio=0.1",
            "--late_seconds=20",
            f"--seed={seed}",
        )
        awkward = (
            f"--events_per_second={LINES_PER_SECOND}",
            f"--input={lines}",
            "--key_field=event_id",
        )
        for number, flags in enumerate((events, awkward)):
            target = (
                f"--kafka_bootstrap_servers={self.kafka.bootstrap_servers}",
                f"--topic={self.topic}",
            )
            log = self.run.directory / f"produce-{self._started}-{number}.out"
            with log.open("w", encoding="utf-8") as output:
                producer = self.run.start("produce", *target, *flags, "--quiet", output=output)
            self._producers.append(producer)

    def end(self) -> None:
        """Ends the producers; fails when one did not deliver all it sent."""
        producers, self._producers = self._producers, []
        for producer in producers:
            producer.send_signal(signal.SIGINT)
        for producer in producers:
            assert producer.wait(60) == 0, f"exit code {producer.returncode}: {producer.args!r}"


def write_lines(path: Path, random: Random, count: int, skewed_clocks: bool) -> None:
    """Writes `count` events, one a line, for `LINES_PER_SECOND` from now on.

    Event times are out of order by up to 20 s to either side, a sixth of the lines are there
    twice, and a few windows of hours ago get events again and again. With `skewed_clocks` every
    third event comes from a clock that is hours off, within the limits and beyond them.
    """
    factory = EventFactory(random.randrange(2**31))
    start_ms = wall_clock_ms()
    lines: list[str] = []
    while len(lines) < count:
        if lines and random.random() < 1 / 6:
            lines.append(random.choice(lines[-500:]))
            continue
        due_ms = start_ms + len(lines) * 1000 // LINES_PER_SECOND
        if skewed_clocks and random.random() < 1 / 3:
            time_ms = due_ms + int(random.choice(SKEWED_HOURS) * HOUR_MS)
        elif random.random() < 0.05:
            time_ms = start_ms - 2 * HOUR_MS + random.randrange(10_000)
        else:
            time_ms = due_ms + random.randrange(-20_000, 20_000)
        lines.append(json.dumps(factory.make(time_ms)))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


SKEWED_HOURS = (-200.0, -160.0, -26.0, -6.0, -0.5, 0.07, 1.0, 30.0)
"""A week, 168 h, and five minutes are what --max_event_age_seconds and --max_event_skew_seconds
allow by default."""
