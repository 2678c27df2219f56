"""Write deploy/grafana/dashboard.json, by the builders of Grafana's own schema."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

PAGE = Path(__file__).resolve().parents[1] / "deploy" / "grafana" / "dashboard.json"

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
RUN = 'instance=~"$instance"'
TOPIC = f'{RUN},topic=~"$topic"'
WIDTH, HEIGHT = 24, 8


class Query(NamedTuple):
    """An expression; `M` stands for the prefix of the metrics, `[R]` for the rates' window."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """Lines over time."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str = ""


class Row(NamedTuple):
    """Panels side by side."""

    title: str
    panels: tuple[Panel, ...]


OVERVIEW = (
    Panel(
        "Components down",
        "none",
        (Query(f"count(M_up{{{RUN}}} == 0) or vector(0)", "components"),),
    ),
    Panel(
        "Newest complete data",
        "s",
        (Query(f"max(time() - M_watermark_timestamp_seconds{{{TOPIC}}})", "age"),),
    ),
    Panel("Lag", "short", (Query(f"sum(M_lag_records{{{TOPIC}}})", "records"),)),
    Panel(
        "Dead letters, share",
        "percentunit",
        (
            Query(
                f"sum(rate(M_dead_letters_total{{{RUN}}}[R])) / "
                f"sum(rate(M_records_read_total{{{RUN}}}[R]))",
                "share",
            ),
        ),
    ),
    Panel(
        "Restarts in a day",
        "none",
        (Query(f"sum(increase(M_restarts_total{{{RUN}}}[1d]))", "restarts"),),
    ),
    Panel(
        "Missing or doubled",
        "none",
        (
            Query(
                "sum(M_reconcile_missing_records) + sum(M_reconcile_doubled_records)",
                "records",
            ),
        ),
        "What the last proof of reconcile --watch has found.",
    ),
)

ROWS = (
    Row(
        "Progress",
        (
            Panel(
                "Age of the newest complete data",
                "s",
                (Query(f"time() - M_watermark_timestamp_seconds{{{TOPIC}}}", "{{topic}}"),),
                "Every event before that is in a file.",
            ),
            Panel(
                "Lag by partition",
                "short",
                (Query(f"M_lag_records{{{TOPIC}}}", "{{topic}}/{{partition}}"),),
                "Offsets between what is landed and the end of the log.",
            ),
            Panel(
                "Lag in seconds",
                "s",
                (Query(f"max by (topic) (M_lag_seconds{{{TOPIC}}})", "{{topic}}"),),
            ),
        ),
    ),
    Row(
        "Records",
        (
            Panel(
                "Records per second",
                "short",
                (
                    Query(f"sum(rate(M_records_read_total{{{RUN}}}[R]))", "read"),
                    Query(f"sum(rate(M_records_valid_total{{{RUN}}}[R]))", "valid"),
                    Query(f"sum(rate(M_rows_late_total{{{RUN}}}[R]))", "late"),
                ),
            ),
            Panel(
                "Dead letters per second, by code",
                "short",
                (Query(f"sum by (code) (rate(M_dead_letters_total{{{RUN}}}[R]))", "{{code}}"),),
            ),
            Panel(
                "Lost, or refused by the dead-letter topic",
                "short",
                (
                    Query(f"sum(M_expired_unread_records{{{TOPIC}}})", "expired unread"),
                    Query(f"sum(M_dead_letters_refused{{{RUN}}})", "refused"),
                ),
            ),
        ),
    ),
    Row(
        "Files",
        (
            Panel(
                "Files per minute",
                "short",
                (
                    Query(
                        f"60 * sum by (kind) (rate(M_landed_files_total{{{RUN}}}[R]))", "{{kind}}"
                    ),
                ),
            ),
            Panel(
                "Landed bytes per second",
                "Bps",
                (Query(f"sum by (kind) (rate(M_landed_bytes_total{{{RUN}}}[R]))", "{{kind}}"),),
            ),
            Panel(
                "Since the last file",
                "s",
                (Query(f"time() - M_last_file_timestamp_seconds{{{RUN}}}", "{{instance}}"),),
            ),
        ),
    ),
    Row(
        "Table",
        (
            Panel(
                "Behind the files",
                "s",
                (Query(f"time() - M_table_current_timestamp_seconds{{{RUN}}}", "{{instance}}"),),
                "Since when something has landed that may not be in the table.",
            ),
            Panel(
                "Commits and merges per hour",
                "short",
                (
                    Query(f"3600 * sum(rate(M_table_commits_total{{{RUN}}}[R]))", "commits"),
                    Query(f"3600 * sum(rate(M_table_compactions_total{{{RUN}}}[R]))", "merges"),
                    Query(f"3600 * sum(rate(M_table_failed_commits_total{{{RUN}}}[R]))", "failed"),
                ),
            ),
            Panel(
                "Records per second into the tables",
                "short",
                (Query(f"sum by (kind) (rate(M_table_records_total{{{RUN}}}[R]))", "{{kind}}"),),
            ),
        ),
    ),
    Row(
        "Processes",
        (
            Panel("Up", "none", (Query(f"M_up{{{RUN}}}", "{{component}}"),)),
            Panel(
                "Resident memory",
                "bytes",
                (Query(f"M_resident_memory_bytes{{{RUN}}}", "{{processes}}"),),
            ),
            Panel(
                "Free disk space",
                "bytes",
                (Query(f"M_disk_free_bytes{{{RUN}}}", "{{directory}}"),),
            ),
        ),
    ),
    Row(
        "Proof",
        (
            Panel(
                "Missing and doubled",
                "short",
                (
                    Query("M_reconcile_missing_records", "{{topic}} missing"),
                    Query("M_reconcile_doubled_records", "{{topic}} doubled"),
                ),
            ),
            Panel(
                "Compared",
                "short",
                (
                    Query("M_reconcile_records", "{{topic}} records"),
                    Query("M_reconcile_rows", "{{topic}} rows"),
                    Query("M_reconcile_dead_letters", "{{topic}} dead letters"),
                ),
            ),
            Panel(
                "Age of the last proof",
                "s",
                (Query("time() - M_reconcile_last_proof_timestamp_seconds", "{{instance}}"),),
            ),
        ),
    ),
)


def dashboard_json() -> str:
    """Return the dashboard, as Grafana imports it."""
    board = (
        dashboard.Dashboard("Kafka to Parquet")
        .uid("beam-pipeline")
        .description("Progress, records, files and processes of beam-pipeline.")
        .tags(["beam-pipeline"])
        .editable()
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(_variable("instance", "M_up"))
        .with_variable(_variable("topic", "M_landed_offset"))
    )
    width = WIDTH // len(OVERVIEW)
    for panel in OVERVIEW:
        board = board.with_panel(_stat(panel, width))
    for row in ROWS:
        board = board.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            board = board.with_panel(_lines(panel, WIDTH // len(row.panels)))
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _variable(label: str, metric: str) -> dashboard.QueryVariable:
    variable = dashboard.QueryVariable(label)
    variable.label(label.capitalize()).datasource(SOURCE)
    variable.query(f"label_values({_full(metric)}, {label})")
    variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    variable.include_all(True).multi(True).all_value(".*")
    return variable


def _stat(panel: Panel, width: int) -> stat.Panel:
    built = stat.Panel()
    built.title(panel.title).unit(panel.unit).description(panel.description)
    built.datasource(SOURCE).span(width).height(4)
    built.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    for target in _targets(panel):
        built.with_target(target)
    return built


def _lines(panel: Panel, width: int) -> timeseries.Panel:
    built = timeseries.Panel()
    built.title(panel.title).unit(panel.unit).description(panel.description)
    built.datasource(SOURCE).span(width).height(HEIGHT).min(0)
    for target in _targets(panel):
        built.with_target(target)
    return built


def _targets(panel: Panel) -> Iterator[prometheus.Dataquery]:
    for letter, query in zip("ABCDEF", panel.queries, strict=False):
        yield (
            prometheus.Dataquery()
            .expr(_full(query.expression))
            .legend_format(query.legend)
            .ref_id(letter)
        )


def _full(expression: str) -> str:
    return re.sub(r"\bM_", "beam_pipeline_", expression).replace("[R]", "[$__rate_interval]")


if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(dashboard_json(), encoding="utf-8")
