"""The footer of a Parquet file: the Kafka offsets that the file covers, stored in the file itself.

So a file and its entry in the ledger appear in one atomic step. The footer is a JSON object under
the key `beam_pipeline.file` of Parquet's key-value metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow
import pyarrow.parquet
from pyroaring import BitMap64

from beam_pipeline.files.names import OutputFile
from beam_pipeline.offset_sets import TopicPartition, from_ranges
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.times import parse_rfc3339

FOOTER_KEY: Final = b"beam_pipeline.file"
FOOTER_VERSION: Final = 1

_TAIL_BYTES = 64 * 1024

OffsetRange = tuple[int, int]
"""First and last offset, both inclusive."""

OffsetsByPartition = Mapping[str, Mapping[int, list[OffsetRange]]]
"""Topic to partition to its ranges, in rising order."""


LastRecords = Mapping[str, Mapping[int, tuple[int, int]]]
"""Topic to partition to the highest offset and its Kafka timestamp in milliseconds since 1970."""


class FooterError(ValueError):
    """The file has no footer of this pipeline, or the footer can't be read."""


@dataclass(frozen=True, slots=True)
class FileFooter:
    """What one Parquet file holds.

    `window_start` is inclusive, `window_end` exclusive, both aware. `rows` counts the file's
    rows. `offsets` are the Kafka offsets that those rows came from. `schema_sha256` is the hex
    digest of the JSON Schema that validated them. `last_records` tells the record at the highest
    offset of each partition; files of older versions do not have it. `nonce` is a random text by
    which a writer knows a file that it wrote itself; empty in files of older versions.
    `is_rewritten` says that the file was made of files of a table (`tables.rewriting`): no landed
    file has its name.
    """

    topic: str
    window_start: datetime
    window_end: datetime
    shard: int
    epoch: str
    pane: int
    rows: int
    schema_id: str | None
    schema_sha256: str
    offsets: OffsetsByPartition
    last_records: LastRecords = field(default_factory=dict)
    nonce: str = ""
    is_rewritten: bool = False

    def output_file(self, suffix: str) -> OutputFile:
        """Return the file that the footer describes.

        Raises:
            ValueError: no file of a pipeline has such a name.
        """
        return OutputFile(
            topic=self.topic,
            window_start=self.window_start,
            window_end=self.window_end,
            shard=self.shard,
            epoch=self.epoch,
            pane=self.pane,
            suffix=suffix,
        )

    def offset_sets(self) -> dict[TopicPartition, BitMap64]:
        """Return the covered offsets of each partition as a set.

        Raises:
            OverflowError, TypeError: a range holds something else than offsets.
        """
        return {
            TopicPartition(topic, partition): from_ranges(ranges)
            for topic, partitions in self.offsets.items()
            for partition, ranges in partitions.items()
        }

    def to_json(self) -> bytes:
        """Return the value to store under `FOOTER_KEY`."""
        optional: dict[str, Any] = {}
        if self.last_records:
            optional["last_records"] = self.last_records
        if self.nonce:
            optional["nonce"] = self.nonce
        if self.is_rewritten:
            optional["rewritten"] = True
        return orjson.dumps(
            {
                "version": FOOTER_VERSION,
                "topic": self.topic,
                "window_start": self.window_start,
                "window_end": self.window_end,
                "shard": self.shard,
                "epoch": self.epoch,
                "pane": self.pane,
                "rows": self.rows,
                "schema": {"id": self.schema_id, "sha256": self.schema_sha256},
                "offsets": self.offsets,
                **optional,
            },
            option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z,
        )

    @staticmethod
    def from_json(text: bytes) -> FileFooter:
        """Return the footer that `to_json` wrote. Unknown keys are ignored.

        Raises:
            FooterError: `text` is not such JSON, or its version is later.
        """
        try:
            document: dict[str, Any] = orjson.loads(text)
            version = document["version"]
            if version != FOOTER_VERSION:
                raise FooterError(f"footer version {version}, this reads {FOOTER_VERSION}")
            return FileFooter(
                topic=document["topic"],
                window_start=parse_rfc3339(document["window_start"]),
                window_end=parse_rfc3339(document["window_end"]),
                shard=document["shard"],
                epoch=document["epoch"],
                pane=document["pane"],
                rows=document["rows"],
                schema_id=document["schema"]["id"],
                schema_sha256=document["schema"]["sha256"],
                offsets={
                    topic: {
                        int(partition): [(first, last) for first, last in ranges]
                        for partition, ranges in partitions.items()
                    }
                    for topic, partitions in document["offsets"].items()
                },
                last_records={
                    topic: {
                        int(partition): (int(offset), int(timestamp_ms))
                        for partition, (offset, timestamp_ms) in partitions.items()
                    }
                    for topic, partitions in document.get("last_records", {}).items()
                },
                nonce=document.get("nonce", ""),
                is_rewritten=bool(document.get("rewritten", False)),
            )
        except FooterError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FooterError(f"footer can't be read: {error!r}") from error


def read_metadata(path: StoredPath) -> pyarrow.parquet.FileMetaData:
    """Return the metadata of one Parquet file; of an object, its end is all that is fetched.

    Raises:
        OSError: the file can't be opened.
        pyarrow.ArrowInvalid: the file is not a Parquet file.
    """
    if isinstance(path, Path):
        return pyarrow.parquet.read_metadata(path)
    # The last eight bytes are the length of the footer and a magic number.
    tail = path.storage.read_range(path.key, -_TAIL_BYTES, _TAIL_BYTES)
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if len(tail) == _TAIL_BYTES and needed > _TAIL_BYTES:
        tail = path.storage.read_range(path.key, -needed, needed)
    return pyarrow.parquet.read_metadata(pyarrow.BufferReader(tail))


def read_footer(path: StoredPath) -> FileFooter:
    """Return the footer of one Parquet file, without reading its data.

    Raises:
        FooterError: there is no footer, or it can't be read.
        OSError: the file can't be opened.
        pyarrow.ArrowInvalid: the file is not a Parquet file.
    """
    metadata: Mapping[bytes, bytes] = read_metadata(path).metadata or {}
    return footer_of(metadata)


def footer_of(metadata: Mapping[bytes, bytes]) -> FileFooter:
    """Return the footer in a Parquet file's key-value metadata.

    Raises:
        FooterError: there is no footer, or it can't be read.
    """
    text = metadata.get(FOOTER_KEY)
    if text is None:
        raise FooterError(f"no {FOOTER_KEY.decode()!r} in the footer")
    return FileFooter.from_json(text)


def merge_last_records(
    parts: Iterable[Mapping[int, tuple[int, int]]],
) -> dict[int, tuple[int, int]]:
    """Return the record at the highest offset of each partition over all parts.

    >>> merge_last_records([{0: (5, 1000)}, {0: (9, 1200), 1: (2, 900)}])
    {0: (9, 1200), 1: (2, 900)}
    """
    last: dict[int, tuple[int, int]] = {}
    for part in parts:
        for partition, record in part.items():
            last[partition] = max(last.get(partition, record), record)
    return last


def ranges_of(offsets: Iterable[int] | npt.NDArray[np.int64]) -> list[OffsetRange]:
    """Return the inclusive ranges that some offsets make, in rising order; no two ranges touch.

    The offsets may be in any order and may repeat.

    >>> ranges_of([7, 3, 4, 5, 4])
    [(3, 5), (7, 7)]
    """
    if isinstance(offsets, np.ndarray):
        values = np.unique(offsets)
    else:
        values = np.unique(np.fromiter(offsets, dtype=np.int64))
    if values.size == 0:
        return []
    last_of_run = np.flatnonzero(np.diff(values) != 1)
    firsts = values[np.concatenate(([0], last_of_run + 1))]
    lasts = values[np.concatenate((last_of_run, [values.size - 1]))]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))
