"""The counts of a producer, and the file that they are reported to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from beam_pipeline.errors import UsageError
from beam_pipeline.producer.source import INPUT, LATE, VALID
from beam_pipeline.storage.durable import write_atomically


@dataclass(slots=True)
class ProduceStatus:
    """Counts of records.

    Attributes:
        produced: handed to the Kafka client.
        acked: acknowledged by the broker.
        failed: not delivered, as the Kafka client reports.
        late: produced with an event time that is late on purpose.
        invalid: produced invalid on purpose, by the name of the breakage.
        done: whether the counts are final.
    """

    produced: int = 0
    acked: int = 0
    failed: int = 0
    late: int = 0
    invalid: Counter[str] = field(default_factory=Counter)
    done: bool = False

    def count_produced(self, kind: str) -> None:
        """Count one record of a `SourceRecord.kind`."""
        self.produced += 1
        if kind == LATE:
            self.late += 1
        elif kind not in (VALID, INPUT):
            self.invalid[kind] += 1


Report = Callable[[ProduceStatus], None]
"""Called with the status about twice a second, and once at the end."""


def report_to_file(path: Path) -> Report:
    """Return a report that replaces `path` by one JSON object, atomically.

    `{"produced": 12, "acked": 12, "invalid": {"bad_uuid": 1}, "late": 0, "done": false}`

    Raises:
        UsageError: the file can't be written.
    """

    def report(status: ProduceStatus) -> None:
        content = {
            "produced": status.produced,
            "acked": status.acked,
            "invalid": dict(status.invalid),
            "late": status.late,
            "done": status.done,
        }
        try:
            write_atomically(path, orjson.dumps(content), durable=False, private=False)
        except OSError as error:
            raise UsageError(
                f"--status_file={path}: {error.strerror}; give a path that can be written"
            ) from error

    report(ProduceStatus())
    return report
