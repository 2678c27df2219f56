"""The command line as a user runs it, in a process of its own, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
from confluent_kafka import Producer
from listening import Listener, listeners
from stores import BUCKET, Store

from beam_pipeline.files.tree import visible_paths
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.storage.config import StorageConfig
from beam_pipeline.storage.paths import StoredPath, open_for_arrow
from beam_pipeline.storage.urls import stored_path

MARKER = "BEAM_PIPELINE_TEST_RUN"
CAUGHT_UP_TIMEOUT_SECONDS = 180
Placed = tuple[str, int, int]
"""Topic, partition and offset."""


@dataclass
class PipelineRun:
    """Runs of the command line that share their directories; none may outlive its end.

    With a `store`, the files go to it. The objects of an S3 server are plain files, at which the
    tests look; those of other servers are read as objects, by the environment of the tests.
    """

    directory: Path
    marker: str = field(default_factory=lambda: uuid.uuid4().hex)
    store: Store | None = None

    @property
    def output_dir(self) -> Path:
        return self._root("output")

    @property
    def dead_letter_dir(self) -> Path:
        return self._root("dead")

    def _root(self, name: str) -> Path:
        if self.store is None:
            return self.directory / name
        return self.store.directory / BUCKET / self.marker / name

    def place_flags(self) -> list[str]:
        """The flags that say where the files are."""
        if self.store is None:
            output, dead = str(self.output_dir), str(self.dead_letter_dir)
        else:
            output, dead = (self.store.url(f"{self.marker}/{name}") for name in ("output", "dead"))
        return [f"--output_dir={output}", f"--dead_letter_dir={dead}"]

    def parquet_paths(self) -> list[StoredPath]:
        """The Parquet files in place."""
        return self._paths("output", ".parquet")

    def letter_paths(self) -> list[StoredPath]:
        """The files of dead letters in place."""
        return self._paths("dead", ".jsonl")

    def _paths(self, name: str, suffix: str) -> list[StoredPath]:
        if self.store is None or self.store.scheme == "s3":
            return list(self._root(name).glob(f"dt=*/hour=*/*{suffix}"))
        root = stored_path(self.store.url(f"{self.marker}/{name}"), StorageConfig())
        return [path for path in visible_paths(root) if path.name.endswith(suffix)]

    def command(self, *words: str) -> list[str]:
        return [
            sys.executable,
            *("-m", "beam_pipeline", *words),
            *(
                [f"--log_dir={self.directory / 'logs'}"]
                if words[:1] in (("run",), ("demo",), ("backfill",))
                else []
            ),
        ]

    def run_words(self, kafka: KafkaConnection, topics: str, *flags: str) -> list[str]:
        return [
            "run",
            f"--kafka_bootstrap_servers={kafka.bootstrap_servers}",
            f"--input_topics={topics}",
            *self.place_flags(),
            "--window_seconds=5",
            *flags,
        ]

    def start(
        self, *words: str, output: IO[str] | int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        """Starts a command; `output` takes what it prints."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            self.command(*words),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env={
                **os.environ,
                **(self.store.environment if self.store else {}),
                MARKER: self.marker,
                **environment,
            },
        )

    def finish(self, *words: str, timeout_seconds: float = CAUGHT_UP_TIMEOUT_SECONDS) -> Finished:
        """Runs to the end; kills what does not get there."""
        process = self.start(*words)
        try:
            output, _ = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            raise AssertionError(f"not at its end in {timeout_seconds} s:\n{output}") from None
        return Finished(process.returncode, output)

    def watch(
        self,
        *words: str,
        timeout_seconds: float = CAUGHT_UP_TIMEOUT_SECONDS,
        **environment: str,
    ) -> tuple[Finished, set[Listener], dict[int, str]]:
        """Runs to the end; meanwhile notes where processes listen, and their command lines."""
        process = self.start(*words, output=subprocess.PIPE, **environment)
        deadline = time.monotonic() + timeout_seconds
        seen: set[Listener] = set()
        commands: dict[int, str] = {}
        while True:
            try:
                output, _ = process.communicate(timeout=0.5)
                return Finished(process.returncode, output), seen, commands
            except subprocess.TimeoutExpired:
                if time.monotonic() > deadline:
                    process.kill()
                    raise
                now = self.processes()
                commands |= now
                seen.update(listeners(now))

    def catch_up(self, kafka: KafkaConnection, topics: str, *flags: str) -> Finished:
        finished = self.finish(*self.run_words(kafka, topics, "--until=caught_up", *flags))
        assert finished.code == 0, finished.output
        return finished

    def processes(self) -> dict[int, str]:
        """Processes of these runs that are alive: id to command line."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"{MARKER}={self.marker}".encode() in (entry / "environ").read_bytes():
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:
                        found[int(entry.name)] = command
        return found

    def process_of(self, what: str) -> int:
        """The id of the running process whose command line holds `what`."""
        (pid,) = [pid for pid, command in self.processes().items() if what in command]
        return pid

    def rows(self) -> list[dict[str, Any]]:
        """Every row in the Parquet files in place."""
        return [
            row
            for path in sorted(self.parquet_paths(), key=str)
            for row in pq.read_table(open_for_arrow(path), partitioning=None).to_pylist()
        ]

    def letters(self) -> list[dict[str, Any]]:
        """Every dead letter in the files in place."""
        return [
            json.loads(line)
            for path in sorted(self.letter_paths(), key=str)
            for line in path.read_bytes().splitlines()
        ]

    def placed(self) -> Counter[Placed]:
        """How often each record is in a file, counted by nothing but the files' content."""
        counts: Counter[Placed] = Counter()
        for path in self.parquet_paths():
            columns = ["kafka_topic", "kafka_partition", "kafka_offset"]
            table = pq.read_table(open_for_arrow(path), columns=columns, partitioning=None)
            counts.update(zip(*(table.column(name).to_pylist() for name in columns), strict=True))
        for letter in self.letters():
            source = letter["source"]
            counts[source["topic"], source["partition"], source["offset"]] += 1
        return counts


@dataclass
class Finished:
    """How a command ended."""

    code: int
    output: str


def send(
    kafka: KafkaConnection,
    topic: str,
    values: Sequence[bytes | None],
    partition: int = 0,
    **extra: Any,
) -> None:
    """Appends records and waits until the broker has them."""
    producer = Producer({**kafka.for_librdkafka(), "message.max.bytes": 16_000_000, "linger.ms": 5})
    for value in values:
        producer.produce(topic, value=value, partition=partition, **extra)
        producer.poll(0)
    assert producer.flush(30) == 0


def wait_for(condition: Callable[[], Any], what: str, timeout_seconds: float = 90.0) -> Any:
    """Polls until `condition` gives something true, and returns that."""
    deadline = time.monotonic() + timeout_seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_seconds} s"
        time.sleep(0.2)
    return found


@contextlib.contextmanager
def running(
    run: PipelineRun,
    words: list[str],
    stop_signal: signal.Signals = signal.SIGTERM,
    output: IO[str] | int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[str]]:
    """A command that runs for the time of the block, and is ended by a signal."""
    process = run.start(*words, output=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(stop_signal)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
