"""Finds offsets at which the log has another record than the files, by the records' timestamps.

A broker that is back from an older disk gives offsets that were landed to new records. The offsets
agree then, and the timestamps do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from pyroaring import BitMap64

from beam_pipeline.files.contents import UnreadableFile, timestamps_in
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.log_reader import timestamps_at
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.tools.reconcile.compare import LogBounds
from beam_pipeline.tools.reconcile.coverage import Coverage

SAMPLES = 8
"""How many records of each partition are compared: the last of as many files, evenly chosen."""

_TIMEOUT_SECONDS = 15.0

Sample = Mapping[TopicPartition, tuple[int, StoredPath]]
"""One landed record of each partition: its offset, and the file that holds it."""


def find_rewritten(
    connection: KafkaConnection, log: LogBounds, coverages: Sequence[Coverage]
) -> dict[TopicPartition, BitMap64]:
    """Return the offsets at which a record of the log has another timestamp than the one in files.

    A few records of each partition are compared, always the last landed one among them. Records
    that the log no longer has are passed over.

    Raises:
        EnvironmentFailure: the cluster refuses.
    """
    rewritten: dict[TopicPartition, BitMap64] = defaultdict(BitMap64)
    for sample in samples(log, coverages):
        landed = _landed_timestamps(sample)
        offsets = {key: sample[key][0] for key in landed}
        there = timestamps_at(connection, offsets, _TIMEOUT_SECONDS) if offsets else {}
        for key, timestamp_ms in there.items():
            if timestamp_ms != landed[key]:
                rewritten[key].add(offsets[key])
    return dict(rewritten)


def samples(log: LogBounds, coverages: Sequence[Coverage]) -> Iterator[Sample]:
    """Yield at most `SAMPLES` samples; the first has the last landed record of each partition."""
    chosen = {}
    for key, (low, high) in log.items():
        last_offsets = sorted(
            (
                (offset, path)
                for coverage in coverages
                for offset, path in coverage.last_offsets.get(key, ())
                if low <= offset < high
            ),
            key=lambda last: (last[0], str(last[1])),
        )
        step = max(1, -(-len(last_offsets) // SAMPLES))
        chosen[key] = last_offsets[::-step]
    for number in range(SAMPLES):
        sample = {key: records[number] for key, records in chosen.items() if number < len(records)}
        if sample:
            yield sample


def _landed_timestamps(sample: Sample) -> dict[TopicPartition, int]:
    by_path: dict[StoredPath, dict[TopicPartition, int]] = defaultdict(dict)
    for key, (offset, path) in sample.items():
        by_path[path][key] = offset
    timestamps = {}
    for path, offsets in by_path.items():
        try:
            timestamps.update(timestamps_in(path, offsets))
        except UnreadableFile:  # `read_coverage` reports it
            continue
    return timestamps
