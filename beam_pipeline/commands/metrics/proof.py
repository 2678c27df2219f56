"""What `reconcile --watch` shows: what its last proof has found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from beam_pipeline.commands.metrics import catalogue
from beam_pipeline.commands.metrics.catalogue import Metric, Sample
from beam_pipeline.tools.reconcile.compare import ReconcileReport


@dataclass(frozen=True)
class Proof:
    """The last proof that came to an end; it never changes.

    Attributes:
      counts: by metric and topic.
      is_clean: None before the first proof.
      began_s: when it began, in seconds since 1970.
      seconds: how long it took.
      failures: how many proofs have come to no end, since the start.
      failure: why the newest one has, if it has.
    """

    counts: Mapping[tuple[Metric, str], int] = field(default_factory=dict)
    is_clean: bool | None = None
    began_s: float = 0.0
    seconds: float = 0.0
    failures: int = 0
    failure: str = ""

    @property
    def taken_at(self) -> float:
        """Now: a proof may take long, and the wait for the next one too."""
        return time.monotonic()

    @property
    def unready(self) -> str:
        """Why it is not known that each record is in one place; empty if it is."""
        if self.failure:
            return f"the last proof failed: {self.failure}"
        if self.is_clean is None:
            return "no proof has come to an end"
        return "" if self.is_clean else "the last proof is not clean"

    def samples(self, now_s: float) -> Iterator[Sample]:
        """Yield the values; they don't depend on the time."""
        yield Sample(catalogue.PROOFS_FAILED, (), self.failures)
        if self.is_clean is None:
            return
        for (metric, topic), count in sorted(self.counts.items(), key=lambda item: item[0][1]):
            yield Sample(metric, (topic,), count)
        yield Sample(catalogue.IS_CLEAN, (), int(self.is_clean))
        yield Sample(catalogue.PROVED_AT, (), self.began_s)
        yield Sample(catalogue.PROOF_SECONDS, (), self.seconds)


def proof_of(report: ReconcileReport, began_s: float, seconds: float, failures: int) -> Proof:
    """Return what a report says; it keeps nothing of the report itself."""
    counts = Counter[tuple[Metric, str]]()
    for partition in report.reconciliation.partitions:
        topic = partition.partition.topic
        counts[catalogue.PROVED_RECORDS, topic] += partition.records
        counts[catalogue.PROVED_ROWS, topic] += partition.parquet_rows
        counts[catalogue.PROVED_DEAD, topic] += partition.dead_letters
        counts[catalogue.MISSING, topic] += len(partition.missing)
        counts[catalogue.DOUBLED, topic] += len(partition.doubled)
        counts[catalogue.PROVED_EXPIRED, topic] += len(partition.expired_unread)
    return Proof(dict(counts), report.is_clean, began_s, seconds, failures)
