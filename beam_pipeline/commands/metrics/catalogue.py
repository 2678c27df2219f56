"""Every metric that is served, declared once; docs/reference/metrics.md is made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

GAUGE, COUNTER = "gauge", "counter"

RUN, DETACHED, PROOF = "run", "flink serve-metrics", "reconcile --watch"
"""The commands that serve metrics; `run` stands for `demo` too."""

_HEAD = """\
# Metrics

This page is generated from the declarations of the metrics, by
`.venv/bin/python scripts/metrics_reference.py`.

`run --metrics_port=9464` serves metrics on `http://127.0.0.1:9464/metrics`, in the format of
Prometheus, on each engine. `flink serve-metrics` serves what can be known of a job that was left
running with `--detach`, and `reconcile --watch` what the last proof has found. `/healthz` and
`/readyz` are beside them; see [operating](../operating.md#metrics).

Counters begin at 0 with each start of the command; those of a detached job, when Flink restores it.
A metric of which nothing is known yet is left out. Offsets, log ends and watermarks are those of
the last look at the logs: ten seconds ago at most, while a broker answers.
"""


class Sample(NamedTuple):
    """A value of a metric, with those of its labels."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
      name: its name without the prefix, and for a counter without `_total`.
      kind: `GAUGE` or `COUNTER`.
      help: what it measures; names its unit.
      labels: the names of its labels.
      commands: those that serve it.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    commands: tuple[str, ...] = (RUN, DETACHED)

    @property
    def full_name(self) -> str:
        """The name as Prometheus has it."""
        return f"beam_pipeline_{self.name}" + ("_total" if self.kind == COUNTER else "")


_PARTITION = ("topic", "partition")

LANDED_OFFSET = Metric(
    "landed_offset", GAUGE, "The first offset of a partition that may be in no file.", _PARTITION
)
LOG_END_OFFSET = Metric(
    "log_end_offset", GAUGE, "The offset after the last record of a partition.", _PARTITION
)
LAG_RECORDS = Metric(
    "lag_records",
    GAUGE,
    "Offsets between what is landed of a partition and the end of its log.",
    _PARTITION,
)
LAG_SECONDS = Metric(
    "lag_seconds",
    GAUGE,
    "Seconds since the time up to which a partition is in files; 0 where it is landed to its end.",
    _PARTITION,
)
WATERMARK = Metric(
    "watermark_timestamp_seconds",
    GAUGE,
    "The time before which every event of a topic is in a file, in seconds since 1970.",
    ("topic",),
)
EXPIRED = Metric(
    "expired_unread_records",
    GAUGE,
    "Records that expired from the log before they were read, at most, and are not accepted.",
    _PARTITION,
)
READ = Metric("records_read", COUNTER, "Records read from Kafka, again after a restart.")
VALID = Metric("records_valid", COUNTER, "Records that became rows.")
DEAD = Metric("dead_letters", COUNTER, "Records that became dead letters, by code.", ("code",))
LATE = Metric("rows_late", COUNTER, "Rows that Kafka got after their window had closed.")
REFUSED = Metric(
    "dead_letters_refused",
    GAUGE,
    "Dead letters that their topic has refused in every form.",
    commands=(RUN,),
)
LANDED_ROWS = Metric(
    "landed_records", COUNTER, "Rows, or dead letters, in the files of the run.", ("kind",)
)
LANDED_FILES = Metric("landed_files", COUNTER, "Files of the run in place.", ("kind",))
LANDED_BYTES = Metric("landed_bytes", COUNTER, "Bytes of the files of the run.", ("kind",))
LAST_FILE = Metric(
    "last_file_timestamp_seconds",
    GAUGE,
    "When the run saw its last new file, in seconds since 1970.",
)
RESTARTS = Metric("restarts", COUNTER, "How often something was started again.")
UP = Metric(
    "up",
    GAUGE,
    "Whether a component works: engine, job (with Prism the Python worker), broker, storage.",
    ("component",),
)
DISK_FREE = Metric(
    "disk_free_bytes",
    GAUGE,
    "Free bytes of the file system of a directory: output, dead_letters, temporary.",
    ("directory",),
)
MEMORY = Metric(
    "resident_memory_bytes",
    GAUGE,
    "Resident memory of the supervisor, and of all processes below it.",
    ("processes",),
    (RUN,),
)
STARTED = Metric(
    "start_timestamp_seconds",
    GAUGE,
    "When the command was started, in seconds since 1970.",
    commands=(RUN,),
)
TABLE_CURRENT = Metric(
    "table_current_timestamp_seconds",
    GAUGE,
    "With --table: when all that had landed was in the tables last, in seconds since 1970; at "
    "first, when the run began.",
    commands=(RUN,),
)
TABLE_WAITING = Metric(
    "table_waiting_files",
    GAUGE,
    "With --table: landed files that were not in the tables when a commit failed; 0 after one that "
    "did not.",
    commands=(RUN,),
)
TABLE_COMMITS = Metric(
    "table_commits", COUNTER, "With --table: snapshots with new files.", commands=(RUN,)
)
TABLE_LAST_COMMIT = Metric(
    "table_last_commit_timestamp_seconds",
    GAUGE,
    "With --table: when the last of these was made, in seconds since 1970.",
    commands=(RUN,),
)
TABLE_RECORDS = Metric(
    "table_records",
    COUNTER,
    "With --table: rows, or dead letters, that the run has put into the tables.",
    ("kind",),
    (RUN,),
)
TABLE_FAILED = Metric(
    "table_failed_commits", COUNTER, "With --table: tries to commit that failed.", commands=(RUN,)
)
TABLE_COMPACTIONS = Metric(
    "table_compactions", COUNTER, "With --table: snapshots that merge files.", commands=(RUN,)
)
TABLE_MERGED = Metric(
    "table_merged_files", COUNTER, "With --table: files that these have merged.", commands=(RUN,)
)
TABLE_RESTARTS = Metric(
    "table_committer_restarts",
    COUNTER,
    "With --table: how often the committer was started again.",
    commands=(RUN,),
)
PROVED_RECORDS = Metric(
    "reconcile_records",
    GAUGE,
    "Records of the part of the logs that was compared.",
    ("topic",),
    (PROOF,),
)
PROVED_ROWS = Metric("reconcile_rows", GAUGE, "Rows in the files.", ("topic",), (PROOF,))
PROVED_DEAD = Metric(
    "reconcile_dead_letters", GAUGE, "Dead letters in the files.", ("topic",), (PROOF,)
)
MISSING = Metric(
    "reconcile_missing_records", GAUGE, "Records that are in no file.", ("topic",), (PROOF,)
)
DOUBLED = Metric(
    "reconcile_doubled_records",
    GAUGE,
    "Records that are in the files more than once.",
    ("topic",),
    (PROOF,),
)
PROVED_EXPIRED = Metric(
    "reconcile_expired_unread_records",
    GAUGE,
    "Records that expired from the log before they were read, at most, and are not accepted.",
    ("topic",),
    (PROOF,),
)
IS_CLEAN = Metric(
    "reconcile_is_clean",
    GAUGE,
    "Whether the last proof found each record in exactly one place, and each file sound.",
    commands=(PROOF,),
)
PROVED_AT = Metric(
    "reconcile_last_proof_timestamp_seconds",
    GAUGE,
    "When the last proof was begun that came to an end, in seconds since 1970.",
    commands=(PROOF,),
)
PROOF_SECONDS = Metric(
    "reconcile_last_proof_duration_seconds",
    GAUGE,
    "How long the last proof took.",
    commands=(PROOF,),
)
PROOFS_FAILED = Metric(
    "reconcile_failed_proofs",
    COUNTER,
    "Proofs that came to no end, as while the broker was away.",
    commands=(PROOF,),
)

METRICS = (
    *(LANDED_OFFSET, LOG_END_OFFSET, LAG_RECORDS, LAG_SECONDS, WATERMARK, EXPIRED),
    *(READ, VALID, DEAD, LATE, REFUSED),
    *(LANDED_ROWS, LANDED_FILES, LANDED_BYTES, LAST_FILE),
    *(RESTARTS, UP, DISK_FREE, MEMORY, STARTED),
    *(TABLE_CURRENT, TABLE_WAITING, TABLE_COMMITS, TABLE_LAST_COMMIT, TABLE_RECORDS),
    *(TABLE_FAILED, TABLE_COMPACTIONS, TABLE_MERGED, TABLE_RESTARTS),
    *(PROVED_RECORDS, PROVED_ROWS, PROVED_DEAD, MISSING, DOUBLED, PROVED_EXPIRED),
    *(IS_CLEAN, PROVED_AT, PROOF_SECONDS, PROOFS_FAILED),
)


def metrics_reference() -> str:
    """Return the page: a table of all metrics."""
    return "\n".join([_HEAD, *_table(), ""])


def _table() -> Iterator[str]:
    yield "| metric | type | labels | served by | meaning |"
    yield "|---|---|---|---|---|"
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        commands = ", ".join(f"`{command}`" for command in metric.commands)
        yield f"| `{metric.full_name}` | {metric.kind} | {labels} | {commands} | {metric.help} |"
