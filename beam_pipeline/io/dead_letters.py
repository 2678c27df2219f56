"""Sinks of dead letters: files of JSON lines, and a dead-letter topic.

The pipeline sends the letters of files that are in place (`PublishDeadLetterFiles`): the files are
the outbox of the topic. `WriteDeadLetterTopic` sends letters as they come, for other pipelines.
"""

# No `from __future__ import annotations`: Beam's RowCoder (2.73) reads the field types of
# `LetterRow` as they are, and takes one that is a text for "any type".

import base64
import contextlib
import json
import logging
import shutil
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional

import apache_beam as beam
import orjson
from apache_beam import coders
from apache_beam.io.kafka import WriteToKafka

from beam_pipeline.config import PaneTiming
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.footer import ranges_of
from beam_pipeline.files.names import JSON_LINES_SUFFIX, OutputFile
from beam_pipeline.files.parts import PartRef
from beam_pipeline.files.sent_notes import begin_notes
from beam_pipeline.io.windowed_files import (
    FileLayout,
    Piece,
    Shard,
    WriteWindowedFiles,
    WrittenFile,
)
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.outbox.publisher import OutboxSettings, Publisher
from beam_pipeline.outbox.topic_record import error_headers
from beam_pipeline.records import DeadLetter
from beam_pipeline.storage.durable import open_private
from beam_pipeline.times import rfc3339_of_ms
from beam_pipeline.transforms.outputs import Outputs

MAX_TEXT_CHARACTERS = 4_000
"""How much of a value is in `value_text`; `value_b64` has all of it."""

_log = logging.getLogger(__name__)


class WriteDeadLetterFiles(beam.PTransform[Any, Any]):
    """PCollection[DeadLetter] in fixed windows to `Outputs` of WrittenFile; its `dead` is empty.

    Writes one JSON object a line, as `schema/dead_letter.schema.json` describes it. Windows, panes
    and names of the files follow the same rules as those of the Parquet files.

    Args:
      layout: where the files go.
      num_shards: how many files a window and topic has; the partition picks one.
      timing: when panes fire besides the one at the window's end.

    Raises:
      ValueError: the input is in the global window.
    """

    def __init__(
        self, layout: FileLayout, num_shards: int, timing: PaneTiming | None = None
    ) -> None:
        super().__init__()
        self._timing = timing
        self._layout = layout
        self._format = JsonLinesFormat(layout.epoch, max(1, num_shards), private=layout.private)

    def expand(self, letters: beam.PCollection[Any]) -> Outputs:
        outputs: Outputs = letters | "WriteWindows" >> WriteWindowedFiles(
            self._layout, self._format, "dead_letters", self._timing
        )
        return outputs


@dataclass(frozen=True)
class JsonLinesFormat:
    """Dead letters as JSON lines; a file is its parts, concatenated. Mode 0600 if `private`."""

    epoch: str
    num_shards: int = 1
    suffix: str = JSON_LINES_SUFFIX
    part_suffix: str = JSON_LINES_SUFFIX
    private: bool = False

    def shards_of(self, letter: DeadLetter) -> Iterator[Piece]:
        shard = Shard(letter.topic, letter.partition % self.num_shards)
        yield Piece(shard, letter, size_of(letter))

    def write_part(self, path: str, shard: Shard, contents: Sequence[DeadLetter]) -> PartRef:
        offsets: dict[int, list[int]] = defaultdict(list)
        # Half of a surrogate pair is replaced, because no JSON reader accepts it.
        with self._open(path, "w", encoding="utf-8", errors="replace") as sink:
            for letter in contents:
                sink.write(json.dumps(to_json(letter, self.epoch), ensure_ascii=False))
                sink.write("\n")
                offsets[letter.partition].append(letter.offset)
        ranges = {partition: ranges_of(values) for partition, values in offsets.items()}
        oldest_ms = min(letter.timestamp for letter in contents)
        return PartRef(path, shard.topic, shard.number, len(contents), ranges, oldest_ms=oldest_ms)

    def assemble(
        self, path: str, target: OutputFile, parts: Sequence[PartRef], known: CoveredOffsets
    ) -> int:
        with self._open(path, "wb") as sink:
            if not known.is_empty:
                return sum(_copy_unknown(Path(part.path), sink, known) for part in parts)
            for part in parts:
                with Path(part.path).open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
        return sum(part.rows for part in parts)

    def _open(self, path: str, mode: str, **options: Any) -> IO[Any]:
        if self.private:
            return open_private(path, mode, **options)
        return Path(path).open(mode, **options)


def _copy_unknown(part: Path, sink: IO[bytes], known: CoveredOffsets) -> int:
    """Copy the lines of letters whose offsets `known` lacks; return how many there are."""
    copied = 0
    with part.open("rb") as lines:
        for line in lines:
            source = orjson.loads(line)["source"]
            if known.which(source["topic"], source["partition"], [source["offset"]]) == [False]:
                copied += 1
                sink.write(line)
    return copied


def size_of(letter: DeadLetter) -> int:
    """Return how many bytes and characters a letter holds: about its size in memory."""
    failure = letter.failure
    texts = [failure.message, failure.error_class, failure.stacktrace or ""]
    for violation in failure.violations:
        texts += violation
    contents: list[str | bytes] = [*texts, letter.key or b"", letter.value or b""]
    for name, content in letter.headers:
        contents += (name, content or b"")
    return sum(map(len, contents))


def to_json(letter: DeadLetter, epoch: str) -> dict[str, Any]:
    """Return the JSON object of a letter; `schema/dead_letter.schema.json` is its contract."""
    failure = letter.failure
    timestamp = rfc3339_of_ms(letter.timestamp)
    return {
        "dlq_id": letter.dlq_id,
        "failed_at": rfc3339_of_ms(letter.failed_at_ms),
        "stage": letter.stage,
        "error": {
            "code": failure.code.value,
            "class": failure.error_class,
            "message": failure.message,
            "stacktrace": failure.stacktrace,
            "violations": [violation._asdict() for violation in failure.violations],
        },
        "source": {
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "timestamp": timestamp,
            **({} if timestamp else {"timestamp_ms": letter.timestamp}),
            "timestamp_type": letter.timestamp_type,
        },
        "key_b64": _base64(letter.key),
        "value_b64": _base64(letter.value),
        "value_text": _text(letter.value),
        "headers": [
            {"key": name, "value_b64": _base64(content)} for name, content in letter.headers
        ],
        "schema": {"id": letter.schema.id, "sha256": letter.schema.sha256},
        "epoch": epoch,
        "attempt": letter.attempt,
    }


class PublishDeadLetterFiles(beam.PTransform[Any, Any]):
    """PCollection[WrittenFile] of dead letters to nothing: sends them to their topics.

    A letter goes to `<input topic><suffix>`, with key, value, headers and timestamp of the original
    record, and further headers (`error_headers`). At-least-once, over any kill of the pipeline: a
    file that was not noted as sent is sent again by the next start of `run`.

    The step only hands the paths to a thread of the worker process. It never fails, never waits for
    Kafka, and does not hold the watermark. Any windowing.

    Args:
      client_properties: Java client properties, such as bootstrap.servers.
      topic_suffix: what is put behind the name of the input topic.
      layout: where the files are.
    """

    def __init__(
        self, client_properties: Mapping[str, str], topic_suffix: str, layout: FileLayout
    ) -> None:
        super().__init__()
        self._settings = OutboxSettings(
            KafkaConnection.of_java(client_properties),
            topic_suffix,
            layout.root,
            private=layout.private,
            storage=layout.storage_config,
        )

    def expand(self, files: beam.PCollection[Any]) -> beam.PCollection[Any]:
        published: beam.PCollection[Any] = files | "HandOver" >> beam.ParDo(
            _HandOver(self._settings)
        )
        return published


class _HandOver(beam.DoFn):
    """WrittenFile to nothing."""

    def __init__(self, settings: OutboxSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        # Its absence would mean that all files are from a version that did not write notes.
        with contextlib.suppress(OSError):
            begin_notes(self._settings.root, private=self._settings.private)

    def process(self, file: WrittenFile) -> None:
        try:
            _publisher(self._settings).put([self._settings.path_of(file.path)])
        except Exception as error:  # the next start sends it
            _log.warning("dead letters of %s wait for the next start: %r", file.path, error)


_publishers: dict[str, Publisher] = {}
_publishers_lock = threading.Lock()


def _publisher(settings: OutboxSettings) -> Publisher:
    """Return this process's publisher for a directory; the first call makes it."""
    with _publishers_lock:
        if settings.dead_letter_dir not in _publishers:
            _publishers[settings.dead_letter_dir] = Publisher(settings, _log.warning, _log.warning)
        return _publishers[settings.dead_letter_dir]


class KafkaHeader(NamedTuple):
    """A header of a record, as `WriteToKafka(with_headers=True)` takes it (Beam 2.73)."""

    key: str
    value: bytes


class LetterRow(NamedTuple):
    """A record, as `WriteToKafka(with_headers=True)` takes it (Beam 2.73)."""

    key: Optional[bytes]  # noqa: UP045 - Beam's RowCoder does not read `bytes | None`
    value: Optional[bytes]  # noqa: UP045
    headers: list[KafkaHeader]
    topic: str
    timestamp: int


class WriteDeadLetterTopic(beam.PTransform[Any, Any]):
    """PCollection[DeadLetter] to records of the topic `<input topic><suffix>`.

    Key, value and timestamp are those of the original record; `to_headers` says which headers are
    added. At-least-once, because Beam's Python SDK has no transactional Kafka sink; a reader can
    drop repeats by `dlq.id`. Any windowing.

    Args:
      client_properties: properties of the Java producer, such as bootstrap.servers.
      topic_suffix: what is put behind the name of the input topic.
      epoch: identity of this submission of the job, for a header.
      expansion_service: host:port of the Java expansion service; None starts Beam's own.
    """

    def __init__(
        self,
        client_properties: Mapping[str, str],
        topic_suffix: str,
        epoch: str,
        expansion_service: str | None,
    ) -> None:
        super().__init__()
        self._producer_config = {
            "max.request.size": str(64 * 1024 * 1024),
            "compression.type": "zstd",
            **client_properties,
        }
        self._topic_suffix = topic_suffix
        self._epoch = epoch
        self._expansion_service = expansion_service

    def expand(self, letters: beam.PCollection[Any]) -> beam.PCollection[Any]:
        for row_type in (KafkaHeader, LetterRow):
            coders.registry.register_coder(row_type, coders.RowCoder)
        sent: beam.PCollection[Any] = (
            letters
            | "ToRows"
            >> beam.ParDo(_ToRow(self._topic_suffix, self._epoch)).with_output_types(LetterRow)
            | "WriteToKafka"
            >> WriteToKafka(
                producer_config=self._producer_config,
                topic=f"any{self._topic_suffix}",  # each row names its own
                with_headers=True,
                expansion_service=self._expansion_service,
            )
        )
        return sent


class _ToRow(beam.DoFn):
    def __init__(self, topic_suffix: str, epoch: str) -> None:
        self._topic_suffix = topic_suffix
        self._epoch = epoch

    def process(self, letter: DeadLetter) -> Iterator[LetterRow]:
        headers = [(name, value or b"") for name, value in letter.headers]
        yield LetterRow(
            key=letter.key,
            value=letter.value,
            headers=[
                KafkaHeader(name, value)
                for name, value in headers + to_headers(letter, self._epoch)
            ],
            topic=f"{letter.topic}{self._topic_suffix}",
            timestamp=letter.timestamp,
        )


def to_headers(letter: DeadLetter, epoch: str) -> list[tuple[str, bytes]]:
    """Return the headers that a letter has on its topic, as `error_headers` does for a line."""
    return error_headers(to_json(letter._replace(value=None), epoch))


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode("ascii")


def _text(value: bytes | None) -> str | None:
    """Return the start of a value as text, or None if it is not UTF-8."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")[:MAX_TEXT_CHARACTERS]
    except UnicodeDecodeError:
        return None
