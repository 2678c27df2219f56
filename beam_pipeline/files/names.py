"""The names of output files: topic, window, shard, epoch and pane.

`dt=2026-11-23/hour=20/orders-20261123T202830Z-20261123T202840Z-s0-e20261124T133350Zx3f9a-p0.parquet`

Parquet files and dead-letter files use the same layout, each below its own root. Times are UTC in
whole seconds; `dt` and `hour` are those of the window's start. `--partition_keys` gives these two
other names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import PurePath, PurePosixPath

from beam_pipeline.storage.paths import ObjectPath
from beam_pipeline.topic_names import is_topic_name

DEFAULT_PARTITION_KEYS = ("dt", "hour")
PARQUET_SUFFIX = ".parquet"
JSON_LINES_SUFFIX = ".jsonl"

# Readers (pyarrow, Spark, DuckDB's globs, this project's own) ignore names that start with these.
HIDDEN_PREFIXES = ("_", ".")
# Put before a topic such as `__audit`, whose files would be hidden; no topic's name has it.
_VISIBLE_MARK = "@"

# NAME_MAX of ext4, XFS, APFS and NTFS.
_MAX_NAME_LENGTH = 255

MAX_TOPIC_LENGTH = 160
"""File names of longer topics may exceed 255 characters (seven digits for shard and pane)."""

_EPOCH = re.compile(r"[A-Za-z0-9]+")
_SUFFIX = re.compile(r"\.[a-z0-9]+")

# A topic may contain dashes, even a whole file name. The parts to its right have exactly the dashes
# written here, so the greedy match of the topic ends in one place only.
_NAME = re.compile(
    r"@?(?P<topic>[A-Za-z0-9._-]+)"
    r"-(?P<start>[0-9]{8}T[0-9]{6}Z)"
    r"-(?P<end>[0-9]{8}T[0-9]{6}Z)"
    r"-s(?P<shard>[0-9]+)"
    r"-e(?P<epoch>[A-Za-z0-9]+)"
    r"-p(?P<pane>[0-9]+)"
    r"(?P<suffix>\.[a-z0-9]+)"
)


@dataclass(frozen=True, slots=True, order=True)
class OutputFile:
    """The parsed name of one output file.

    >>> file = OutputFile.parse("orders-20261123T202830Z-20261123T202840Z-s0-ee1-p0.parquet")
    >>> file.topic, file.pane, file.window_start.isoformat()
    ('orders', 0, '2026-11-23T20:28:30+00:00')
    >>> print(file.relative_path())
    dt=2026-11-23/hour=20/orders-20261123T202830Z-20261123T202840Z-s0-ee1-p0.parquet
    >>> OutputFile.parse("by-hand.parquet") is None
    True

    Args:
        topic: the input topic, a legal Kafka topic name.
        window_start: start of the event-time window, inclusive; aware, whole seconds.
        window_end: end of the window, exclusive; aware, whole seconds.
        shard: 0 or more.
        epoch: the submission of the job, letters and digits only.
        pane: index of the window's firing, 0 or more.
        suffix: `.parquet` or `.jsonl`.

    Raises:
        ValueError: a field is not valid in a file name.
    """

    topic: str
    window_start: datetime
    window_end: datetime
    shard: int
    epoch: str
    pane: int
    suffix: str

    def __post_init__(self) -> None:
        if not is_topic_name(self.topic):
            raise ValueError(f"not a Kafka topic name: {self.topic!r}")
        for field in ("window_start", "window_end"):
            instant: datetime = getattr(self, field)
            if instant.tzinfo is None or instant.microsecond:
                raise ValueError(f"{field} must be aware and in whole seconds: {instant!r}")
            object.__setattr__(self, field, instant.astimezone(timezone.utc))
        if self.window_end <= self.window_start:
            raise ValueError(f"window ends at {self.window_end}, not after {self.window_start}")
        if self.shard < 0 or self.pane < 0:
            raise ValueError(f"shard {self.shard} and pane {self.pane} must be 0 or more")
        if not _EPOCH.fullmatch(self.epoch):
            raise ValueError(f"epoch must be letters and digits: {self.epoch!r}")
        if not _SUFFIX.fullmatch(self.suffix):
            raise ValueError(f"suffix must be a dot, then letters or digits: {self.suffix!r}")
        if len(self.name) > _MAX_NAME_LENGTH:
            raise ValueError(
                f"topic {self.topic!r} makes a file name of {len(self.name)} characters; "
                f"file systems take {_MAX_NAME_LENGTH}"
            )

    @property
    def name(self) -> str:
        """The file's name without directories."""
        return f"{self.name_before_pane}{self.pane}{self.suffix}"

    @property
    def name_before_pane(self) -> str:
        """The name up to the pane's index, alike for all panes of the window, shard and epoch."""
        mark = _VISIBLE_MARK if self.topic.startswith(HIDDEN_PREFIXES) else ""
        return (
            f"{mark}{self.topic}-{_compact(self.window_start)}-{_compact(self.window_end)}"
            f"-s{self.shard}-e{self.epoch}-p"
        )

    def relative_path(
        self, partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS
    ) -> PurePosixPath:
        """Return the file's path below its root, with Hive partitions: the keys of day and hour."""
        return hour_directory(self.window_start, partition_keys) / self.name

    @staticmethod
    def parse(path: str | PurePath | ObjectPath) -> OutputFile | None:
        """Return the file of a name, in any directory; None if no pipeline writes such a name."""
        name = PurePath(path).name if isinstance(path, str) else path.name
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        try:
            parsed = OutputFile(
                topic=match["topic"],
                window_start=_instant(match["start"]),
                window_end=_instant(match["end"]),
                shard=int(match["shard"]),
                epoch=match["epoch"],
                pane=int(match["pane"]),
                suffix=match["suffix"],
            )
        except ValueError:
            return None
        return parsed if parsed.name == name else None


def hour_directory(
    instant: datetime, partition_keys: tuple[str, str] = DEFAULT_PARTITION_KEYS
) -> PurePosixPath:
    """Return the directory, below a root, of the files of an hour.

    >>> print(hour_directory(datetime(2026, 11, 23, 20, 28, tzinfo=timezone.utc)))
    dt=2026-11-23/hour=20
    """
    day, hour = partition_keys
    date = f"{instant.year:04d}-{instant:%m-%d}"
    return PurePosixPath(f"{day}={date}", f"{hour}={instant:%H}")


def _compact(instant: datetime) -> str:
    # Not strftime alone: glibc's %Y writes the year 987 as three digits.
    return f"{instant.year:04d}{instant:%m%dT%H%M%SZ}"


def _instant(compact: str) -> datetime:
    return datetime.strptime(compact, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
