"""What a producer has done so far: the counts, and who is told of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from beam_pipeline.errors import UsageError
from beam_pipeline.producer.source import INPUT, LATE, VALID


@dataclass(slots=True)
class ProduceStatus:
    """Counts of records.

    Attributes:
        produced: handed to the Kafka client.
        acked: acknowledged by the broker.
        failed: given up by the Kafka client.
        late: produced with an event time that is late on purpose.
        invalid: produced broken on purpose, by name of the breakage.
        done: nothing more will come.
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
"""Is told of the status now and then, and once more at the end."""


def report_to_file(path: Path) -> Report:
    """A report that rewrites `path` as one JSON object; a reader never sees half of it.

    `{"produced": 12, "acked": 12, "invalid": {"bad_uuid": 1}, "late": 0, "done": false}`

    Raises:
        UsageError: the file can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")

    def report(status: ProduceStatus) -> None:
        content = {
            "produced": status.produced,
            "acked": status.acked,
            "invalid": dict(status.invalid),
            "late": status.late,
            "done": status.done,
        }
        try:
            temporary.write_bytes(orjson.dumps(content))
            temporary.replace(path)
        except OSError as error:
            raise UsageError(
                f"--status_file={path}: {error.strerror}; give a path that can be written"
            ) from error

    report(ProduceStatus())
    return report
