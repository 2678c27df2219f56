"""What a metrics endpoint answers, by Prometheus' own parser."""

from __future__ import annotations

import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from beam_pipeline.commands.metrics.catalogue import METRICS

LOOPBACK = "127.0.0.1"
Values = dict[tuple[str, ...], float]
"""Values by the name without its prefix, and the values of the labels."""


def fetch(port: int, path: str) -> tuple[int, str]:
    """The status and the text of an answer."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(port: int, command: str) -> Values:
    """The values; each metric must be one of the catalogue that the command serves."""
    code, text = fetch(port, "/metrics")
    assert code == 200
    known = {metric.full_name: metric for metric in METRICS if command in metric.commands}
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            metric = known[sample.name]
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            assert set(sample.labels) == set(metric.labels)
            labels = (sample.labels[label] for label in metric.labels)
            key = sample.name.removeprefix("beam_pipeline_"), *labels
            values[key] = sample.value
    return values


def scrape_if_served(port: int, command: str) -> Values:
    """The values; none while nobody listens yet."""
    try:
        return scrape(port, command)
    except OSError:
        return {}
