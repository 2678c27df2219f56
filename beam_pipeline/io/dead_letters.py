"""Sinks of dead letters: files of JSON lines, and a dead-letter topic.

The pipeline sends the letters of files that are in place (`PublishDeadLetterFiles`): the files are
the outbox of the topic. `WriteDeadLetterTopic` sends letters as they come, for other pipelines.
"""

# No `from __future__ import annotations`: Beam's RowCoder (2.73) reads the field types of
# `LetterRow` as they are, and takes one that is a text for "any type".

import binascii
import contextlib
import functools
import itertools
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional

import apache_beam as beam
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam import coders
from apache_beam.io.kafka import WriteToKafka

from beam_pipeline.config import PaneTiming, ReadGoal
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.files.names import JSON_LINES_SUFFIX, OutputFile
from beam_pipeline.files.parts import PartRef
from beam_pipeline.files.sent_notes import begin_notes
from beam_pipeline.io.shards import cut_by_shard, offsets_of
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
from beam_pipeline.records import DeadLetter, dlq_id_of, replay_of
from beam_pipeline.storage.durable import open_private
from beam_pipeline.times import rfc3339_of_ms
from beam_pipeline.transforms.dead_letters import DeadLetters, as_dead_letters
from beam_pipeline.transforms.outputs import Outputs

MAX_TEXT_CHARACTERS = 4_000
"""How much of a value is in `value_text`; `value_b64` has all of it."""

_WRITE_BYTES = 256 * 1024

_log = logging.getLogger(__name__)


class WriteDeadLetterFiles(beam.PTransform[Any, Any]):
    """PCollection[DeadLetters] in fixed windows to `Outputs` of WrittenFile; its `dead` is empty.

    Writes one JSON object a line, as `schema/dead_letter.schema.json` describes it. Windows, panes
    and names of the files follow the same rules as those of the Parquet files. Elements may be
    single `DeadLetter`s, too.

    Args:
      layout: where the files go.
      num_shards: how many files a window and topic has; the partition picks one.
      timing: when panes fire besides the one at the window's end.
      goal: what the run reads; once it is read, the panes fire.

    Raises:
      ValueError: the input is in the global window.
    """

    def __init__(
        self,
        layout: FileLayout,
        num_shards: int,
        timing: PaneTiming | None = None,
        goal: ReadGoal | None = None,
    ) -> None:
        super().__init__()
        self._goal = goal
        self._timing = timing
        self._layout = layout
        self._format = JsonLinesFormat(layout.epoch, max(1, num_shards), private=layout.private)

    def expand(self, letters: beam.PCollection[Any]) -> Outputs:
        outputs: Outputs = letters | "WriteWindows" >> WriteWindowedFiles(
            self._layout, self._format, "dead_letters", self._timing, self._goal
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

    def shards_of(self, element: DeadLetters | DeadLetter) -> Iterator[Piece]:
        batch = as_dead_letters(element).batch
        for shard, rows in cut_by_shard(batch, self.num_shards, default_topic=""):
            yield Piece(shard, DeadLetters(rows), rows.nbytes)

    def write_part(self, path: str, shard: Shard, contents: Sequence[DeadLetters]) -> PartRef:
        with self._open(path, "wb", buffering=_WRITE_BYTES) as sink:
            for letters in contents:
                sink.writelines(lines_of(letters, self.epoch))
        table = pa.Table.from_batches([letters.batch for letters in contents])
        return PartRef(
            path,
            shard.topic,
            shard.number,
            table.num_rows,
            offsets_of(table),
            oldest_ms=pc.min(table.column("kafka_timestamp").cast(pa.int64())).as_py(),
        )

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


def lines_of(letters: DeadLetters, epoch: str) -> Iterator[bytes]:
    """Yield each letter as a line of JSON; `schema/dead_letter.schema.json` is its contract."""
    errors = map(orjson.Fragment, _list_of(letters, "error"))
    for document in _documents(letters, epoch, errors, _list_of(letters, "_value")):
        yield orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _documents(
    letters: DeadLetters, epoch: str, errors: Iterable[Any], values: Iterable[bytes | None]
) -> Iterator[dict[str, Any]]:
    """Yield the JSON object of each letter.

    Args:
      letters: the letters.
      epoch: identity of this submission of the job.
      errors: the object `error` of each letter.
      values: what to give as the value of each letter's record.
    """
    text_of_ms = functools.lru_cache(rfc3339_of_ms)  # many letters of a batch have one time
    timestamps = letters.batch.column("kafka_timestamp").cast(pa.int64()).to_pylist()
    rows = zip(
        errors,
        values,
        letters.headers(),
        timestamps,
        *(_list_of(letters, name) for name in _WRITTEN_COLUMNS),
        strict=False,
    )
    for error, value, headers, timestamp_ms, *columns in rows:
        topic, partition, offset, timestamp_type, key, stage, id_, sha256, failed_at_ms = columns
        timestamp = text_of_ms(timestamp_ms)
        yield {
            "dlq_id": dlq_id_of(topic, partition, offset, stage),
            "failed_at": text_of_ms(failed_at_ms),
            "stage": stage,
            "error": error,
            "source": {
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "timestamp": timestamp,
                **({} if timestamp else {"timestamp_ms": timestamp_ms}),
                "timestamp_type": timestamp_type,
            },
            "key_b64": _base64(key),
            "value_b64": _base64(value),
            "value_text": _text(value),
            "headers": [{"key": name, "value_b64": _base64(content)} for name, content in headers],
            "schema": {"id": id_, "sha256": sha256},
            "epoch": epoch,
            "attempt": replay_of(headers).attempt,
        }


_WRITTEN_COLUMNS = (
    "kafka_topic",
    "kafka_partition",
    "kafka_offset",
    "_timestamp_type",
    "_key",
    "stage",
    "schema_id",
    "schema_sha256",
    "failed_at_ms",
)


def _list_of(letters: DeadLetters, name: str) -> list[Any]:
    column = letters.batch.column(name)
    if column.null_count and pa.types.is_integer(column.type):
        return list(column.to_pylist())
    # Several times as fast as to_pylist, which makes a scalar of each.
    values: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
    return values


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
    """PCollection[DeadLetters] to records of the topic `<input topic><suffix>`.

    Key, value and timestamp are those of the original record; `headers_of` says which headers are
    added. At-least-once, because Beam's Python SDK has no transactional Kafka sink; a reader can
    drop repeats by `dlq.id`. Elements may be single `DeadLetter`s, too. Any windowing.

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
            >> beam.ParDo(_ToRows(self._topic_suffix, self._epoch)).with_output_types(LetterRow)
            | "WriteToKafka"
            >> WriteToKafka(
                producer_config=self._producer_config,
                topic=f"any{self._topic_suffix}",  # each row names its own
                with_headers=True,
                expansion_service=self._expansion_service,
            )
        )
        return sent


class _ToRows(beam.DoFn):
    def __init__(self, topic_suffix: str, epoch: str) -> None:
        self._topic_suffix = topic_suffix
        self._epoch = epoch

    def process(self, element: DeadLetters | DeadLetter) -> Iterator[LetterRow]:
        letters = as_dead_letters(element)
        columns = ("kafka_topic", "_key", "_value")
        rows = zip(
            letters.headers(),
            headers_of(letters, self._epoch),
            letters.batch.column("kafka_timestamp").cast(pa.int64()).to_pylist(),
            *(_list_of(letters, name) for name in columns),
            strict=True,
        )
        for own_headers, added_headers, timestamp_ms, topic, key, value in rows:
            headers = [(name, content or b"") for name, content in own_headers]
            yield LetterRow(
                key=key,
                value=value,
                headers=[KafkaHeader(*header) for header in headers + added_headers],
                topic=f"{topic}{self._topic_suffix}",
                timestamp=timestamp_ms,
            )


def headers_of(letters: DeadLetters, epoch: str) -> Iterator[list[tuple[str, bytes]]]:
    """Yield the headers that each letter has on its topic, as `error_headers` does for a line."""
    errors = map(orjson.loads, _list_of(letters, "error"))
    for document in _documents(letters, epoch, errors, itertools.repeat(None)):
        yield error_headers(document)


def _base64(content: bytes | None) -> str | None:
    return None if content is None else binascii.b2a_base64(content, newline=False).decode("ascii")


def _text(value: bytes | None) -> str | None:
    """Return the start of a value as text, or None if it is not UTF-8."""
    if value is None:
        return None
    try:
        return value.decode("utf-8")[:MAX_TEXT_CHARACTERS]
    except UnicodeDecodeError:
        return None
