"""The flags of the pipeline itself, shared by the command line and Beam's options."""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path

from beam_pipeline import resources
from beam_pipeline.errors import UsageError
from beam_pipeline.files.names import MAX_TOPIC_LENGTH
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.schemas import Contract, load_contracts

EVENT_TIME, APPEND_TIME, CREATE_TIME = "event_time", "append_time", "create_time"
PRIVATE, SHARED = "private", "shared"

DEFAULT_DEAD_LETTER_SUFFIX = ".dlq"
PARQUET_CODECS = ("zstd", "snappy", "lz4", "gzip", "none")


def add_pipeline_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that shape the graph; each help names its unit and default.

    Paths stay text: Beam sends its options to the runner as JSON.
    """
    add_source_flags(parser)
    add_landing_flags(parser)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where records come from."""
    source = parser.add_argument_group("source")
    source.add_argument(
        "--kafka_bootstrap_servers",
        metavar="HOST:PORT[,…]",
        help="the Kafka cluster to read from",
    )
    source.add_argument(
        "--kafka_config",
        metavar="FILE",
        help="Kafka client properties (SASL, SSL, …) for reader, writer and admin",
    )
    source.add_argument(
        "--input_topics",
        metavar="TOPIC[,…]",
        help="the topics to land; they must exist",
    )
    source.add_argument(
        "--consumer_group",
        metavar="NAME",
        help="consumer group whose committed offsets say where reading starts; the pipeline sets "
        "them from its files at every start, so no other reader may share it "
        "(default: beam-pipeline- and a hash of --output_dir)",
    )


def add_landing_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what becomes of records: contract, windows, sink."""
    contract = parser.add_argument_group("contract")
    contract.add_argument(
        "--schema",
        metavar="FILE[,…]",
        default=str(resources.event_schema_path()),
        help="JSON Schema of the events, JSON or YAML; several are versions, the current one last "
        "(default: the commerce event of the demo)",
    )
    contract.add_argument(
        "--schema_version_field",
        metavar="FIELD",
        help="what tells the versions of --schema apart, each of which says its own as x-version: "
        "a field of the event (dotted when nested), header:NAME, or wire for the id in Confluent's "
        "wire format; the first version is for records without (default: one version)",
    )
    contract.add_argument(
        "--event_time_field",
        metavar="FIELD",
        help="field with the event's RFC 3339 time, dotted when nested "
        "(default: what the schema names as x-event-time)",
    )
    contract.add_argument(
        "--reference_dir",
        metavar="DIR",
        default=str(resources.reference_dir()),
        help="directory of the reference tables that the schema's x-enrich names",
    )
    contract.add_argument(
        "--transform",
        metavar="PACKAGE.MODULE:NAME",
        action="append",
        help="a transform of your own over Arrow batches, behind the enrichment; may be given "
        "several times, in order (default: none)",
    )
    contract.add_argument(
        "--max_event_age_seconds",
        metavar="SECONDS",
        type=int,
        default=7 * 24 * 3600,
        help="an event older than this when Kafka got it is a dead letter; 0 sets no limit "
        "(default: %(default)s, a week)",
    )
    contract.add_argument(
        "--max_event_skew_seconds",
        metavar="SECONDS",
        type=int,
        default=300,
        help="an event further in the future than this when Kafka got it is a dead letter; 0 sets "
        "no limit (default: %(default)s)",
    )
    contract.add_argument(
        "--max_value_bytes",
        metavar="BYTES",
        type=int,
        default=8 * 1024 * 1024,
        help="a larger value is a dead letter (default: %(default)s)",
    )

    windows = parser.add_argument_group("windows")
    windows.add_argument(
        "--window_seconds",
        metavar="SECONDS",
        type=int,
        default=60,
        help="length of a window, and so of a file (default: %(default)s)",
    )
    windows.add_argument(
        "--window_by",
        choices=(EVENT_TIME, APPEND_TIME, CREATE_TIME),
        default=EVENT_TIME,
        help="which time puts an event into a window: the one in the event, the one Kafka got it "
        "at, or the one its producer stamped it with; event_time and append_time need topics with "
        "message.timestamp.type=LogAppendTime (default: %(default)s)",
    )
    windows.add_argument(
        "--watermark_delay_seconds",
        metavar="SECONDS",
        type=int,
        default=2,
        help="how long a window stays open for stragglers before its file is written "
        "(default: %(default)s)",
    )
    windows.add_argument(
        "--late_pane_seconds",
        metavar="SECONDS",
        type=int,
        default=5,
        help="how long late events are collected before they get a file of their own "
        "(default: %(default)s)",
    )
    windows.add_argument(
        "--early_pane_seconds",
        metavar="SECONDS",
        type=int,
        help="write what an open window has this long after its first event; 0 waits for the "
        "window's end (default: 0; 5 with --until=caught_up)",
    )

    sink = parser.add_argument_group("sink")
    sink.add_argument(
        "--output_dir",
        metavar="DIR",
        default="data/output",
        help="where Parquet files go (default: %(default)s)",
    )
    sink.add_argument(
        "--dead_letter_dir",
        metavar="DIR",
        default="data/dead",
        help="where dead letters go as JSON lines (default: %(default)s)",
    )
    sink.add_argument(
        "--dead_letter_access",
        choices=(PRIVATE, SHARED),
        default=PRIVATE,
        help="who may read the files of --dead_letter_dir: the pipeline's user alone, or whoever "
        "the umask lets (default: %(default)s)",
    )
    sink.add_argument(
        "--dead_letter_topic_suffix",
        metavar="SUFFIX",
        default=DEFAULT_DEAD_LETTER_SUFFIX,
        help="dead letters of TOPIC go to the topic TOPIC+SUFFIX too (default: %(default)s)",
    )
    sink.add_argument(
        "--num_shards",
        metavar="N",
        type=int,
        default=1,
        help="files per window; a record's shard is its Kafka partition modulo N "
        "(default: %(default)s)",
    )
    sink.add_argument(
        "--parquet_codec",
        choices=PARQUET_CODECS,
        default="zstd",
        help="compression of the Parquet files (default: %(default)s)",
    )
    sink.add_argument(
        "--part_retention_seconds",
        metavar="SECONDS",
        type=int,
        default=3600,
        help="how long the parts of a finished file are kept for a restored checkpoint "
        "(default: %(default)s)",
    )


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that the starting process sets for the job it starts."""
    job = parser.add_argument_group("set by the starting process")
    job.add_argument("--epoch", metavar="ID", help="identity of this submission")
    job.add_argument("--expansion_service", metavar="HOST:PORT", help="Beam's Java expansion")
    job.add_argument("--covered_offsets", metavar="FILE", help="offsets in files already")


_TRANSFORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)

_AT_LEAST = {
    "max_event_age_seconds": 0,
    "max_event_skew_seconds": 0,
    "max_value_bytes": 1,
    "window_seconds": 1,
    "watermark_delay_seconds": 0,
    "late_pane_seconds": 1,
    "early_pane_seconds": 0,
    "num_shards": 1,
    "part_retention_seconds": 0,
}


def check_pipeline_flags(flags: argparse.Namespace) -> None:
    """Refuses values out of range.

    Raises:
      UsageError: names the flag, the value and what it takes.
    """
    for name, least in _AT_LEAST.items():
        value = getattr(flags, name)
        if value is not None and value < least:
            raise UsageError(f"--{name}={value}: must be {least} or more")
    for specification in flags.transform or ():
        if not _TRANSFORM.fullmatch(specification):
            raise UsageError(
                f"--transform={specification}: must be package.module:Name, such as "
                "examples.transforms:MaskEmail"
            )
    if flags.window_seconds > 86_400:
        raise UsageError(
            f"--window_seconds={flags.window_seconds}: must be at most 86400, a day, since files "
            "lie in directories by day and hour"
        )


def consumer_group_of(flags: argparse.Namespace) -> str:
    """The consumer group: as named, else one that belongs to the output directory alone.

    Two pipelines must not share one: each sets its offsets before its reader looks at them.
    """
    if flags.consumer_group:
        return str(flags.consumer_group)
    directory = str(Path(flags.output_dir).absolute()).encode()
    return f"beam-pipeline-{hashlib.sha256(directory).hexdigest()[:12]}"


def connection_of(flags: argparse.Namespace) -> KafkaConnection:
    """The cluster that `--kafka_bootstrap_servers` and `--kafka_config` describe."""
    config_file = Path(flags.kafka_config) if flags.kafka_config else None
    return KafkaConnection.from_flags(flags.kafka_bootstrap_servers, config_file)


def topics_of(flag: str | None) -> tuple[str, ...]:
    """The topics that `--input_topics` names, each once.

    Raises:
      UsageError: it names none, or one whose file names would be too long.
    """
    named = (part.strip() for part in (flag or "").split(","))
    topics = tuple(dict.fromkeys(filter(None, named)))
    if not topics:
        raise UsageError("--input_topics is missing: name the topic to land, or several by commas")
    for topic in topics:
        if len(topic) > MAX_TOPIC_LENGTH:
            raise UsageError(
                f"--input_topics={topic}: {len(topic)} characters; files bear the topic's name, "
                f"which may have {MAX_TOPIC_LENGTH} at most"
            )
    return topics


def contract_of(flags: argparse.Namespace) -> Contract:
    """The contract that `--schema` and `--schema_version_field` describe.

    Raises:
      UsageError: a schema does not serve, or what tells versions apart is missing.
    """
    whole = str(flags.schema)
    paths = [whole] if Path(whole).is_file() else [part.strip() for part in whole.split(",")]
    return load_contracts(paths, flags.schema_version_field)


def event_time_field(flags: argparse.Namespace, contract: Contract) -> str | None:
    """The event time field's path, None when windows follow Kafka's timestamp.

    Raises:
      UsageError: no field is named, or the schema has no such field.
    """
    if flags.window_by != EVENT_TIME:
        return None
    path: str | None = flags.event_time_field or contract.event_time_field
    if path is None:
        raise UsageError(
            f"--event_time_field is missing, and --schema={contract.source} names none "
            "(x-event-time); name the field, or give --window_by=append_time"
        )
    columns = contract.event_schema
    for step in [path] if path in columns.names else path.split("."):
        names = [column.name for column in columns]
        if step not in names:
            raise UsageError(
                f"--event_time_field={path}: --schema={contract.source} has no property {step!r}; "
                f"there are {', '.join(names)}"
            )
        columns = columns.field(step).type
    return path


def add_kafka_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `kafka_connection` reads."""
    parser.add_argument(
        "--kafka_bootstrap_servers",
        metavar="HOST:PORT[,…]",
        help="brokers to ask first; may stand in the file of --kafka_config instead",
    )
    parser.add_argument(
        "--kafka_config",
        type=Path,
        metavar="FILE",
        help="client properties, one key=value a line, such as SASL and SSL settings",
    )


def kafka_connection(args: argparse.Namespace) -> KafkaConnection:
    """The connection that the Kafka flags describe.

    Raises:
        UsageError: no address, or settings that no client takes.
    """
    return KafkaConnection.from_flags(args.kafka_bootstrap_servers, args.kafka_config)


def add_output_dir_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--output_dir`."""
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("data/output"),
        metavar="DIR",
        help="where the pipeline wrote Parquet files (default: %(default)s)",
    )


def add_dead_letter_dir_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--dead_letter_dir`."""
    parser.add_argument(
        "--dead_letter_dir",
        type=Path,
        default=Path("data/dead"),
        metavar="DIR",
        help="where the pipeline wrote dead letters (default: %(default)s)",
    )


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def topic_names(text: str) -> list[str]:
    """Splits `a,b` into its names; an argparse type.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError("give one name or more, separated by commas")
    return found
