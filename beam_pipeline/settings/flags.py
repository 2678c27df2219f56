"""Every flag that more than one command takes, declared once. `settings.config` converts them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from beam_pipeline import resources
from beam_pipeline.files.names import DEFAULT_PARTITION_KEYS
from beam_pipeline.records import DEFAULT_KAFKA_COLUMNS
from beam_pipeline.times import TIME_UNITS
from beam_pipeline.topic_names import is_topic_name

EVENT_TIME, APPEND_TIME, CREATE_TIME = "event_time", "append_time", "create_time"
PRIVATE, SHARED = "private", "shared"
PRISM, FLINK = "prism", "flink"
AUTO, OFF = "auto", "off"
ASSERT, ANNOTATE = "assert", "annotate"
DEAD, ROW = "dead", "row"
EARLIEST, LATEST = "earliest", "latest"

DEFAULT_OUTPUT_DIR, DEFAULT_DEAD_LETTER_DIR = "data/output", "data/dead"
DEFAULT_DEAD_LETTER_SUFFIX = ".dlq"
DEFAULT_MAX_COLUMNS = 2_000
LOOPBACK = "127.0.0.1"
DEFAULT_WORKER_POOL = "localhost:50000"
PARQUET_CODECS = ("zstd", "snappy", "lz4", "gzip", "none")

# Parsers and their groups both take arguments, and share no public type.
Flags = argparse._ActionsContainer

_SHARED_FLAGS: dict[str, dict[str, Any]] = {
    "kafka_bootstrap_servers": {
        "metavar": "HOST:PORT[,…]",
        "help": "brokers to connect to first; may be in the file of --kafka_config instead",
    },
    "kafka_config": {
        "metavar": "FILE",
        "help": "Java properties file with Kafka client settings such as SASL and SSL "
        "(default: none)",
    },
    "schema": {
        "metavar": "FILE[,…]",
        "default": str(resources.event_schema_path()),
        "help": "JSON Schema of the events, as JSON or YAML; several files are versions, the "
        "current one last (default: the commerce event of the demo)",
    },
    "formats": {
        "choices": (ASSERT, ANNOTATE),
        "default": ASSERT,
        "help": "whether a text without the format that the schema names is a dead letter; with "
        "annotate it is not, and dates and times are columns of text (default: %(default)s)",
    },
    "max_columns": {
        "metavar": "N",
        "default": DEFAULT_MAX_COLUMNS,
        "help": "how many Parquet columns an event may have; if its schema has more, its deepest "
        "objects and lists become JSON text, level by level (default: %(default)s)",
    },
    "reference_dir": {
        "metavar": "DIR",
        "default": str(resources.reference_dir()),
        "help": "directory of the reference tables that the schema's x-enrich names "
        "(default: those of the commerce event)",
    },
    "output_dir": {
        "metavar": "DIR|URL",
        "default": DEFAULT_OUTPUT_DIR,
        "help": "where the Parquet files go: a directory, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX "
        "or az://CONTAINER/PREFIX (default: %(default)s)",
    },
    "dead_letter_dir": {
        "metavar": "DIR|URL",
        "default": DEFAULT_DEAD_LETTER_DIR,
        "help": "where the dead letters go, as JSON lines: a directory or a URL (default: "
        f"{DEFAULT_DEAD_LETTER_DIR}; for an --output_dir that is a URL that URL with -dead behind "
        "it)",
    },
    "storage_config": {
        "metavar": "FILE",
        "help": "YAML file that says how an object store is reached: endpoint, region, profile, "
        "path_style, account, project; credentials come from the store's own SDK (default: none)",
    },
    "kafka_columns": {
        "metavar": "NAME[,…]",
        "default": ",".join(DEFAULT_KAFKA_COLUMNS),
        "help": "what of a Kafka record the files have as columns kafka_NAME beside the event's: "
        "topic, partition, offset and timestamp, which are always there, and key, headers and "
        "value, the bytes as they were produced (default: %(default)s)",
    },
    "dead_letter_topic_suffix": {
        "metavar": "SUFFIX",
        "default": DEFAULT_DEAD_LETTER_SUFFIX,
        "help": "dead letters of TOPIC are also sent to the topic TOPIC+SUFFIX "
        "(default: %(default)s)",
    },
    "parquet_codec": {
        "choices": PARQUET_CODECS,
        "default": "zstd",
        "help": "compression of the Parquet files (default: %(default)s)",
    },
    "engine": {
        "choices": (PRISM, FLINK),
        "default": PRISM,
        "help": "what runs the job: Prism, Beam's local runner, or Flink; ./run_flink.sh sets "
        "flink (default: %(default)s)",
    },
    "json": {"action": "store_true", "help": "print JSON, for programs"},
    "catalog": {
        "metavar": "FILE",
        "help": "YAML file with pyiceberg's properties of the table's catalog, such as type, uri "
        "and credential (default: an embedded catalog, a SQLite file below --output_dir)",
    },
    "accept_expired": {
        "action": "store_true",
        "help": "accept that records expired from the log before they were read: they are no "
        "reason for exit code 1; `run` notes them beside the ledger",
    },
    "log_dir": {
        "metavar": "DIR",
        "default": "logs",
        "help": "directory of the log files, one set for each run (default: %(default)s)",
    },
}
_NUMBERS = frozenset({"max_columns"})
_PATHS = frozenset({"kafka_config", "log_dir", "storage_config", "catalog"})


def add_shared(parser: Flags, *names: str) -> None:
    """Add flags that several commands take. Files become `Path`s.

    `--output_dir` and `--dead_letter_dir` stay text: see `settings.places`.
    """
    for name in names:
        how: dict[str, Any] = {"type": Path} if name in _PATHS else {}
        if name in _NUMBERS:
            how = {"type": int}
        parser.add_argument(f"--{name}", **_SHARED_FLAGS[name], **how)


def add_kafka_flags(parser: Flags) -> None:
    """Add the flags that describe a Kafka connection."""
    add_shared(parser, "kafka_bootstrap_servers", "kafka_config")


def topic_names(text: str) -> list[str]:
    """Split `a,b` into its names; an argparse type.

    Raises:
        argparse.ArgumentTypeError: there is no name.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("give one name or more, separated by commas")
    for name in names:
        if not is_topic_name(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} is the name of no topic; patterns are not taken, name each topic"
            )
    return names


def add_pipeline_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that shape the graph; each help names its unit and default.

    Paths stay text: Beam sends its options to the runner as JSON.
    """
    add_source_flags(parser)
    add_landing_flags(parser)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where records come from."""
    source = parser.add_argument_group("source")
    _add_as_text(source, "kafka_bootstrap_servers", "kafka_config")
    source.add_argument(
        "--input_topics",
        metavar="TOPIC[,…]",
        help="the topics to write; they must exist",
    )
    source.add_argument(
        "--input_topic_pattern",
        metavar="REGEX",
        help="instead of --input_topics: all topics whose whole name matches this regular "
        "expression, also those that come while the pipeline runs; they share one --schema, and "
        "topics of dead letters and Kafka's own are left out",
    )
    source.add_argument(
        "--consumer_group",
        metavar="NAME",
        help="consumer group; each start sets its committed offsets from the files and reads from "
        "there, so no other consumer may use it "
        "(default: beam-pipeline- and a hash of --output_dir)",
    )


def add_landing_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what becomes of records: contract, windows, sink."""
    _add_contract_flags(parser.add_argument_group("contract"))
    _add_window_flags(parser.add_argument_group("windows"))
    _add_sink_flags(parser.add_argument_group("sink"))


def _add_contract_flags(contract: Flags) -> None:
    _add_as_text(contract, "schema")
    contract.add_argument(
        "--schema_version_field",
        metavar="FIELD",
        help="where a record states its version of --schema: a field of the event (dotted when "
        "nested), header:NAME, or wire for the schema id in Confluent's wire format; each schema "
        "states its version as x-version, and records without a version use the first schema "
        "(default: there is one version)",
    )
    _add_as_text(contract, "formats", "max_columns")
    contract.add_argument(
        "--event_time_field",
        metavar="FIELD",
        help="field with the event time, dotted when nested: RFC 3339 text, or a number since "
        "1970, see --event_time_unit (default: the field that the schema names as x-event-time)",
    )
    contract.add_argument(
        "--event_time_unit",
        choices=tuple(TIME_UNITS),
        help="unit of an event time that is a number, since 1970; of seconds the first six digits "
        "behind the point count (default: the schema's x-event-time-unit, or ms)",
    )
    _add_as_text(contract, "reference_dir")
    contract.add_argument(
        "--transform",
        metavar="PACKAGE.MODULE:NAME",
        action="append",
        help="your own transform over Arrow batches, applied after the enrichment; repeat the "
        "flag for several, in order (default: none)",
    )
    contract.add_argument(
        "--max_event_age_seconds",
        metavar="SECONDS",
        type=int,
        default=7 * 24 * 3600,
        help="an event older than this when Kafka received it is a dead letter; 0 sets no limit "
        "(default: %(default)s, a week)",
    )
    contract.add_argument(
        "--max_event_skew_seconds",
        metavar="SECONDS",
        type=int,
        default=300,
        help="an event further in the future than this when Kafka received it is a dead letter; "
        "0 sets no limit (default: %(default)s)",
    )
    contract.add_argument(
        "--max_value_bytes",
        metavar="BYTES",
        type=int,
        default=8 * 1024 * 1024,
        help="a larger value is a dead letter (default: %(default)s)",
    )
    contract.add_argument(
        "--null_values",
        choices=(DEAD, ROW),
        default=DEAD,
        help="what a record whose value is null (a tombstone) becomes: a dead letter, or a row "
        "whose event columns are null, at the record's Kafka timestamp (default: %(default)s)",
    )
    contract.add_argument(
        "--compiled_contract",
        choices=(AUTO, OFF),
        default=AUTO,
        help="auto: rows that the compiled schema proves valid take native code, which gives the "
        "same rows in less time, if `fetch` has built it; off: it is not used (default: "
        "%(default)s)",
    )


def _add_window_flags(windows: Flags) -> None:
    windows.add_argument(
        "--window_seconds",
        metavar="SECONDS",
        type=int,
        default=60,
        help="length of a window; each window gets files of its own (default: %(default)s)",
    )
    windows.add_argument(
        "--window_by",
        choices=(EVENT_TIME, APPEND_TIME, CREATE_TIME),
        default=EVENT_TIME,
        help="the time that puts an event into a window: the one in the event, the time Kafka "
        "received it, or the time its producer stamped it with; append_time needs topics with "
        "message.timestamp.type=LogAppendTime, and event_time is best with them "
        "(default: %(default)s)",
    )
    windows.add_argument(
        "--max_out_of_order_seconds",
        metavar="SECONDS",
        type=int,
        default=60,
        help="how far the records of a partition may be out of order by their producers' "
        "timestamps; a window by event_time stays open that much longer. It counts only for topics "
        "with message.timestamp.type=CreateTime (default: %(default)s)",
    )
    windows.add_argument(
        "--watermark_delay_seconds",
        metavar="SECONDS",
        type=int,
        default=2,
        help="how long a window stays open after its end for late events before its file is "
        "written (default: %(default)s)",
    )
    windows.add_argument(
        "--late_pane_seconds",
        metavar="SECONDS",
        type=int,
        default=5,
        help="how long events that come after the window's file was written are collected before "
        "they get a file of their own (default: %(default)s)",
    )
    windows.add_argument(
        "--early_pane_seconds",
        metavar="SECONDS",
        type=int,
        help="a window that is still open this long after its first event gets an early file; 0 "
        "writes no early files (default: 0; 5 with --until=caught_up)",
    )


def _add_sink_flags(sink: Flags) -> None:
    _add_as_text(sink, "output_dir", "dead_letter_dir", "storage_config")
    sink.add_argument(
        "--dead_letter_access",
        choices=(PRIVATE, SHARED),
        default=PRIVATE,
        help="who may read the files in --dead_letter_dir: the pipeline's user alone, or whoever "
        "the umask allows (default: %(default)s)",
    )
    add_shared(sink, "dead_letter_topic_suffix", "kafka_columns")
    sink.add_argument(
        "--partition_keys",
        metavar="DAY,HOUR",
        default=",".join(DEFAULT_PARTITION_KEYS),
        help="the names of day and hour in the names of directories, such as "
        "dt=2026-11-24/hour=15; give others where an event has a field of such a name "
        "(default: %(default)s)",
    )
    sink.add_argument(
        "--allow_schema_change",
        action="store_true",
        help="write to --output_dir although its files have a column of another type or encoding, "
        "or one whose name differs in case alone; readers must then tell the files apart",
    )
    sink.add_argument(
        "--num_shards",
        metavar="N",
        type=int,
        default=1,
        help="files per window; a record's shard is its Kafka partition modulo N "
        "(default: %(default)s)",
    )
    _add_as_text(sink, "parquet_codec")
    sink.add_argument(
        "--parts_dir",
        metavar="DIR",
        help="a directory that all workers share, for the parts that files are made of (default: "
        "below --output_dir; for an object store a directory in the cache where the workers are on "
        "this machine, else small parts travel with the job and large ones through the store)",
    )
    sink.add_argument(
        "--part_retention_seconds",
        metavar="SECONDS",
        type=int,
        default=3600,
        help="how long the parts of a finished file are kept for a restore from a checkpoint "
        "(default: %(default)s)",
    )


def _add_as_text(group: Flags, *names: str) -> None:
    for name in names:
        how: dict[str, Any] = {"type": int} if name in _NUMBERS else {}
        group.add_argument(f"--{name}", **_SHARED_FLAGS[name], **how)


def add_table_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that make the landed files a table."""
    table = parser.add_argument_group("table")
    table.add_argument(
        "--table",
        metavar="NAMESPACE.NAME",
        help="also an Iceberg table of the files, and NAMESPACE.NAME__dead_letters of the dead "
        "letters, with exactly-once commits (default: none)",
    )
    add_shared(table, "catalog")
    table.add_argument(
        "--commit_interval",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="with --table, the least time between two commits; the end of a run commits at once "
        "(default: %(default)g)",
    )


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that only `python -m beam_pipeline.job` takes."""
    job = parser.add_argument_group("job")
    job.add_argument("--epoch", metavar="ID", help="identity of this submission")
    job.add_argument(
        "--expansion_service", metavar="HOST:PORT", help="Beam's Java expansion service"
    )
    job.add_argument(
        "--plain_source",
        action="store_true",
        help="use no class of this project's in the source, for a Flink cluster without its jar",
    )
    job.add_argument(
        "--packs_dir",
        metavar="DIRECTORY",
        help="where records on their way from Java to Python are in files, if both run here "
        "(default: they go through the runner)",
    )
    job.add_argument("--covered_offsets", metavar="FILE", help="offsets that are in files already")


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what the job runs on."""
    group = parser.add_argument_group("engine")
    add_shared(group, "engine")
    group.add_argument(
        "--flink_master",
        metavar="HOST:PORT",
        help="REST address of your own Flink cluster (default: a cluster is started here)",
    )
    group.add_argument(
        "--worker_pool",
        metavar="HOST:PORT",
        default=DEFAULT_WORKER_POOL,
        help="with --flink_master, address of the Python worker pool as seen by a TaskManager "
        "(default: %(default)s, one on the host of each TaskManager)",
    )
    group.add_argument(
        "--parallelism",
        metavar="N",
        type=int,
        default=2,
        help="on Flink, number of task slots and Python processes for the job "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--checkpointing_interval",
        metavar="MS",
        type=int,
        default=10_000,
        help="on Flink, milliseconds between checkpoints (default: %(default)s)",
    )
    group.add_argument(
        "--from_savepoint",
        metavar="PATH",
        help="on Flink, resume from this savepoint, or retained checkpoint, of the job that wrote "
        "--output_dir last (default: resume from the files)",
    )


def add_supervision_flags(group: Flags) -> None:
    """Add the flags that say how a run is supervised."""
    group.add_argument(
        "--max_restarts",
        metavar="N",
        type=int,
        default=10,
        help="how many times in a row the job is restarted after a failure (default: %(default)s)",
    )
    group.add_argument(
        "--max_dead_ratio",
        metavar="SHARE",
        type=float,
        help="stop when more than this share, 0 to 1, of the records read within "
        "--dead_ratio_window_seconds are dead letters, as with a wrong --schema (default: off)",
    )
    group.add_argument(
        "--dead_ratio_window_seconds",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="time over which --max_dead_ratio is measured (default: %(default)g)",
    )
    group.add_argument(
        "--dead_letter_topic_timeout_seconds",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="at the end of a bounded run, how long the dead-letter topic may take no dead letter "
        "before the run ends with exit code 1 (default: %(default)g)",
    )
    group.add_argument(
        "--discovery_interval",
        metavar="SECONDS",
        type=float,
        default=60.0,
        help="how often a run without a goal looks for new partitions and topics, and for topics "
        "that were deleted; a new epoch then reads what there is, new ones from their first "
        "record; 0 never looks (default: %(default)g)",
    )
    add_metrics_flags(group)
    group.add_argument(
        "--on_event",
        metavar="COMMAND",
        help="run this command, without a shell, when the job is started again, an hour is "
        "complete, --max_dead_ratio has tripped or the run has given up; it gets a line of JSON as "
        "its input, and the kind of the event as BEAM_PIPELINE_EVENT (default: none)",
    )
    add_shared(group, "accept_expired", "log_dir")


def add_metrics_flags(group: Flags) -> None:
    """Add the flags that say where metrics are served."""
    group.add_argument(
        "--metrics_port",
        metavar="PORT",
        type=int,
        help="serve metrics for Prometheus on this port, with /healthz and /readyz "
        "(default: off; 9464 is usual)",
    )
    group.add_argument(
        "--metrics_host",
        metavar="HOST",
        default=LOOPBACK,
        help="the address on which metrics are served; there is no login (default: %(default)s)",
    )
