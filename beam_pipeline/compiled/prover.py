"""What a worker does with the kernel: prove rows, and stop using it when it may be wrong."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipeline.compiled.crash_marker import CrashMarker, crashes, marker_directory
from beam_pipeline.compiled.kernel import (
    Kernel,
    KernelUnusableError,
    ProvenColumns,
    TimeRule,
)
from beam_pipeline.compiled.plan import Plan, compile_plan, time_part_of
from beam_pipeline.config import ValidationRules
from beam_pipeline.records import MAX_TIME_MS, MIN_TIME_MS
from beam_pipeline.schemas.columns import ARROW_REFUSALS
from beam_pipeline.schemas.contract import Contract

WATCH_EVERY = 1_000
"""One in so many proven rows is judged by the exact path as well."""

WATCH_TOGETHER = 16
"""So many watched rows are judged in one batch, of `WATCH_EVERY` times as many proven rows: most of
the price of a few rows on the exact path is that of a batch."""

PROVEN, DIFFERENCES = "proven", "proven_differences"
"""Counters: rows that the kernel proved, and watched rows that the exact path makes otherwise."""

Rows = npt.NDArray[np.int32]

_LOG = logging.getLogger(__name__)
_switched_off: set[str] = set()
"""Digests of kernels that this process uses no more."""


class Proven(NamedTuple):
    """Proven rows as a batch of the contract's columns, and the other records."""

    batch: pa.RecordBatch
    others: pa.RecordBatch


class Prover:
    """Proves the rows of batches, and judges some of them by the exact path as well.

    Attributes:
      counts: what became of rows since it was last emptied, by `PROVEN` and `DIFFERENCES`.
      has_time_rule: whether the event times of proven rows follow the rules.
    """

    def __init__(
        self,
        kernel: Kernel,
        marker: CrashMarker,
        digest: str,
        has_time_rule: bool,
        watch_every: int = WATCH_EVERY,
    ) -> None:
        self.has_time_rule = has_time_rule
        self.counts: Counter[str] = Counter()
        self._kernel = kernel
        self._marker = marker
        self._digest = digest
        self._watch_every = watch_every
        self._until_watched = 0

    def prove(
        self,
        records: pa.RecordBatch,
        riding: pa.RecordBatch,
        with_columns: Callable[[list[pa.Array], pa.RecordBatch], pa.RecordBatch],
        exact: Callable[[pa.RecordBatch], list[pa.RecordBatch]],
    ) -> Proven | None:
        """Return the rows that are proven; None if there are none.

        Args:
          records: a batch of `RECORD_SCHEMA`.
          riding: the same records as they ride along with the event's columns.
          with_columns: makes the batch for an event's columns and their records.
          exact: makes the batches of valid records on the exact path.
        """
        if self._digest in _switched_off or not records.num_rows:
            return None
        try:
            rows, columns = self._in_kernel(records)
        except Exception:
            _switched_off.add(self._digest)
            _LOG.exception(
                "the compiled contract failed on the records %s; %s", _described(records), _WITHOUT
            )
            return None
        if not len(rows):
            return None
        are_all = len(rows) == records.num_rows
        try:
            batch = with_columns(columns, riding if are_all else riding.take(pa.array(rows)))
        except ARROW_REFUSALS:  # an event time that Arrow refuses: the exact path has the words
            return None
        if not self._is_as_exact(batch, records, rows, exact):
            return None
        self.counts[PROVEN] += batch.num_rows
        return Proven(batch, records.slice(0, 0) if are_all else _without(records, rows))

    def _in_kernel(self, records: pa.RecordBatch) -> ProvenColumns:
        self._marker.enter(_described(records))
        try:
            return self._kernel.prove(records.column("_value"), _append_times(records))
        finally:
            self._marker.leave()

    def close(self) -> None:
        """Remove the crash marker."""
        self._marker.close()

    def _is_as_exact(
        self,
        batch: pa.RecordBatch,
        records: pa.RecordBatch,
        rows: Rows,
        exact: Callable[[pa.RecordBatch], list[pa.RecordBatch]],
    ) -> bool:
        self._until_watched -= len(rows)
        if self._until_watched > 0:
            return True
        self._until_watched += self._watch_every * WATCH_TOGETHER
        self._until_watched = max(self._until_watched, 1)
        watched = np.unique(np.linspace(0, len(rows) - 1, WATCH_TOGETHER, dtype=np.intp))
        wanted = exact(records.take(pa.array(rows[watched])))
        made = batch.take(pa.array(watched))
        if len(wanted) == 1 and _plain(wanted[0]).equals(_plain(made)):
            return True
        _switched_off.add(self._digest)
        self.counts[DIFFERENCES] += len(watched)
        _LOG.error(
            "the compiled contract and the exact path differ on one of the records %s; %s",
            _described(records.take(pa.array(rows[watched]))),
            _WITHOUT,
        )
        return False


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch with its `_value` as binary: equal values may have other dictionaries."""
    position = batch.schema.get_field_index("_value")
    value = batch.column(position)
    return batch.set_column(position, "_value", value.cast(value.type.value_type))


def _append_times(records: pa.RecordBatch) -> npt.NDArray[np.int64]:
    append_ms = records.column("kafka_timestamp").cast(pa.int64()).to_numpy()
    append_us: npt.NDArray[np.int64] = np.clip(append_ms, MIN_TIME_MS, MAX_TIME_MS) * 1_000
    return append_us


def _time_rule(plan: Plan, rules: ValidationRules) -> TimeRule | None:
    """Return what the kernel is to check of event times; None if it can't make them."""
    part = None
    if rules.event_time_field is not None:
        part = time_part_of(plan, rules.event_time_field)
    if part is None:
        return None
    limits = (rules.max_event_age_seconds, rules.max_event_skew_seconds)
    max_age, max_skew = (limit * 1_000_000 if limit else 2**63 - 1 for limit in limits)
    return TimeRule(part, MIN_TIME_MS * 1_000, (MAX_TIME_MS + 1) * 1_000 - 1, max_age, max_skew)


def prover_of(
    contract: Contract, rules: ValidationRules, directory: Path | None = None
) -> Prover | None:
    """Return the prover of a contract; None if all records take the exact path.

    Args:
      contract: the schema.
      rules: those of validation; its kernel is None if there is none, or it is switched off.
      directory: where crash markers are; None for that of the machine.
    """
    library = rules.kernel
    if library is None or library.digest in _switched_off:
        return None
    plan = compile_plan(contract)
    if plan.root is None:
        return None
    directory = directory or marker_directory()
    died_with = crashes(directory, library.digest)
    if died_with:
        _switched_off.add(library.digest)
        _LOG.error(
            "a worker died in the compiled contract within the last hour, with the records %s; %s",
            "; ".join(died_with),
            _WITHOUT,
        )
        return None
    try:
        times = _time_rule(plan, rules)
        kernel = Kernel(library, plan, rules.max_value_bytes, times)
        marker = CrashMarker(directory, library.digest)
    except (KernelUnusableError, OSError) as error:
        _LOG.warning("--compiled_contract has no effect in this worker: %s", error)
        return None
    return Prover(kernel, marker, library.digest, times is not None)


_WITHOUT = (
    "this worker takes the exact path from now on. Please report it; --compiled_contract=off "
    "keeps it off"
)


def _without(records: pa.RecordBatch, rows: Rows) -> pa.RecordBatch:
    is_left = np.ones(records.num_rows, np.bool_)
    is_left[rows] = False
    return records.filter(pa.array(is_left))


def _described(records: pa.RecordBatch) -> str:
    """Return topics, partitions and offsets such as `events[0] 17 to 4016`."""
    topics = pc.unique(records.column("kafka_topic"))
    partitions = records.column("kafka_partition").to_numpy()
    offsets = records.column("kafka_offset").to_numpy()
    if len(topics) == 1 and partitions.min() == partitions.max():
        return f"{topics[0]}[{partitions[0]}] {offsets.min()} to {offsets.max()}"
    places = pa.table([records.column(name) for name in _PLACE], names=list(_PLACE))
    grouped = places.group_by([*_PLACE[:2]], use_threads=False).aggregate(
        [(_PLACE[2], "min"), (_PLACE[2], "max")]
    )
    return ", ".join(
        f"{row['kafka_topic']}[{row['kafka_partition']}] "
        f"{row['kafka_offset_min']} to {row['kafka_offset_max']}"
        for row in grouped.to_pylist()
    )


_PLACE = ("kafka_topic", "kafka_partition", "kafka_offset")
