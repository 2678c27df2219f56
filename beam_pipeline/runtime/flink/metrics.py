"""The pipeline's counters, from the metrics that Beam's runner gives to Flink.

Beam's Flink runner (2.70) names a counter `<operator>.<namespace>.<name>`; Flink's REST interface
puts `_` for each dot of namespace and name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from beam_pipeline.records import COERCED, METRICS_NAMESPACE
from beam_pipeline.runtime.flink.rest import FlinkRest

_COUNTER = re.compile(rf"\.{METRICS_NAMESPACE}[._](?P<name>\w+|{COERCED}[._].+)$", re.DOTALL)
_GROUP = re.compile(rf"(parquet|dead_letters|dead|{COERCED})_(?=.)", re.DOTALL)


def job_counters(rest: FlinkRest, job_id: str) -> Counter[str]:
    """Return the job's counters by the pipeline's names, summed over steps and subtasks."""
    total: Counter[str] = Counter()
    for vertex in rest.vertices(job_id):
        names = [name for name in rest.subtask_metrics(job_id, vertex) if counter_name(name)]
        if names:
            total += sum_counters(rest.subtask_metrics(job_id, vertex, names).items())
    return total


def sum_counters(metrics: Iterable[tuple[str, float]]) -> Counter[str]:
    """Sum Flink's metrics into counters by the pipeline's names."""
    total: Counter[str] = Counter()
    for name, value in metrics:
        counter = counter_name(name)
        if counter:
            total[counter] += int(value)
    return total


def counter_name(metric: str) -> str | None:
    """Return the pipeline's name of a counter; None for any other metric.

    `Validate.beam_pipeline_dead_TOO_OLD` is `dead.TOO_OLD`. The path of a coerced field keeps the
    `_` that Flink puts for its dots.
    """
    match = _COUNTER.search(metric)
    return _GROUP.sub(r"\1.", match["name"], count=1) if match else None
