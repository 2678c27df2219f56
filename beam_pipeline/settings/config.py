"""What the flags say, converted and checked once: frozen values that everything else takes."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from beam_pipeline.config import (
    BreakerLimits,
    CreateTimeTopics,
    IngestConfig,
    PaneTiming,
    ValidationRules,
    Windowing,
)
from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import UsageError
from beam_pipeline.files.names import MAX_TOPIC_LENGTH
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.records import DEFAULT_KAFKA_COLUMNS, KAFKA_COLUMNS, PROVENANCE_COLUMNS
from beam_pipeline.schemas import Contract, load_contracts
from beam_pipeline.schemas.contract import (
    check_event_time_field,
    check_partition_keys,
    check_record_columns,
    is_reserved,
)
from beam_pipeline.settings.flags import (
    ASSERT,
    AUTO,
    CREATE_TIME,
    DEFAULT_DEAD_LETTER_DIR,
    EARLIEST,
    EVENT_TIME,
    FLINK,
    LATEST,
    PRIVATE,
    ROW,
)
from beam_pipeline.settings.masking import masked
from beam_pipeline.settings.places import check_place
from beam_pipeline.storage.config import StorageConfig, read_storage_config
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.urls import absolute, is_url, stored_path
from beam_pipeline.times import DEFAULT_TIME_UNIT, ms_of, parse_rfc3339
from beam_pipeline.topic_names import check_topic_name

MAX_WINDOW_SECONDS = 86_400
_MAX_PORT = 65_535

# Readers skip directories that begin with an underscore or a dot.
_PARTITION_KEY = re.compile(r"[A-Za-z]\w{0,63}", re.ASCII)
_TRANSFORM = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class PipelineSettings:
    """The flags of the pipeline. JSON can hold it, and it holds no secret.

    Files that flags name are not read yet: `connection`, `contract` and `ingest_config` do that.
    """

    kafka_bootstrap_servers: str | None
    kafka_config: str | None
    input_topics: tuple[str, ...]
    consumer_group: str
    schema: str
    schema_version_field: str | None
    formats: str
    max_columns: int
    event_time_field: str | None
    event_time_unit: str | None
    reference_dir: str
    transforms: tuple[str, ...]
    max_event_age_seconds: int
    max_event_skew_seconds: int
    max_value_bytes: int
    compiled_contract: bool
    window_by: str
    windowing: Windowing
    max_out_of_order_seconds: int
    timing: PaneTiming
    output_dir: str
    dead_letter_dir: str
    private_dead_letters: bool
    partition_keys: tuple[str, str]
    allow_schema_change: bool
    dead_letter_topic_suffix: str
    num_shards: int
    parquet_codec: str
    part_retention_seconds: int
    storage_config: str | None = None
    parts_dir: str | None = None
    input_topic_pattern: str | None = None
    kafka_columns: tuple[str, ...] = DEFAULT_KAFKA_COLUMNS
    keeps_null_values: bool = False
    has_table: bool = False

    def connection(self) -> KafkaConnection:
        """Return the cluster that `--kafka_bootstrap_servers` and `--kafka_config` describe.

        Raises:
          UsageError: there is no address, or the file does not serve.
        """
        config_file = Path(self.kafka_config) if self.kafka_config else None
        return KafkaConnection.from_flags(self.kafka_bootstrap_servers, config_file)

    @property
    def storage(self) -> StorageConfig:
        """Read how object stores are reached.

        Raises:
          UsageError: the file of `--storage_config` does not serve.
        """
        return read_storage_config(Path(self.storage_config) if self.storage_config else None)

    @property
    def output_path(self) -> StoredPath:
        """Return the root of the Parquet files."""
        return stored_path(self.output_dir, self.storage)

    @property
    def dead_letter_path(self) -> StoredPath:
        """Return the root of the dead-letter files."""
        return stored_path(self.dead_letter_dir, self.storage)

    def topics(self) -> tuple[str, ...]:
        """Return the input topics, at least one.

        Raises:
          UsageError: there is none.
        """
        if not self.input_topics and self.input_topic_pattern:
            raise UsageError(
                f"--input_topic_pattern={self.input_topic_pattern}: this command does not "
                "look for topics; name them with --input_topics"
            )
        if not self.input_topics:
            raise UsageError(
                "--input_topics is missing: name the topic to read, or several separated by "
                "commas, or give --input_topic_pattern"
            )
        return self.input_topics

    def contract(self) -> Contract:
        """Load the contract that `--schema` and `--schema_version_field` describe.

        Raises:
          UsageError: a schema is not usable, or what tells its versions apart is missing.
        """
        whole = self.schema
        paths = [whole] if Path(whole).is_file() else [part.strip() for part in whole.split(",")]
        contract = load_contracts(
            paths,
            self.schema_version_field,
            max_columns=self.max_columns,
            asserts_formats=self.formats == ASSERT,
        )
        names = contract.event_schema.names
        check_partition_keys(names, self.partition_keys, f"--schema={self.schema}")
        check_record_columns(names, self.kafka_columns, f"--schema={self.schema}")
        return contract

    def event_time_path(self, contract: Contract) -> str | None:
        """Return the path of the event time field; None when windows follow Kafka's timestamp.

        Raises:
          UsageError: no field is named, or the schema has no such field of times.
        """
        if self.window_by != EVENT_TIME:
            return None
        path = self.event_time_field or contract.event_time_field
        if path is None:
            raise UsageError(
                f"--event_time_field is missing, and --schema={contract.source} names none "
                "(x-event-time); name the field, or give --window_by=append_time"
            )
        check_event_time_field(contract, path, self._named_unit(contract))
        return path

    def _named_unit(self, contract: Contract) -> str | None:
        """Return the unit of event times that the flag names, or the schema for its own field."""
        is_own = self.event_time_field in (None, contract.event_time_field)
        return self.event_time_unit or (contract.event_time_unit if is_own else None)

    def ingest_config(
        self,
        epoch: str,
        expansion_service: str | None = None,
        covered: CoveredOffsets | None = None,
    ) -> IngestConfig:
        """Read the files that the flags name, and return all that `build_pipeline` needs.

        Args:
          epoch: the identity of this submission of the job.
          expansion_service: host:port of the Java expansion service; None starts Beam's own.
          covered: the offsets that files of earlier epochs hold.

        Raises:
          UsageError: a flag is missing, or names a file that is not usable.
        """
        topics, contract = self.topics(), self.contract()
        return IngestConfig(
            input_topics=topics,
            consumer_group=self.consumer_group,
            contract=contract,
            rules=ValidationRules(
                event_time_field=self.event_time_path(contract),
                max_event_age_seconds=self.max_event_age_seconds,
                max_event_skew_seconds=self.max_event_skew_seconds,
                max_value_bytes=self.max_value_bytes,
                event_time_unit=self._named_unit(contract) or DEFAULT_TIME_UNIT,
                keeps_null_values=self.keeps_null_values,
            ),
            compiled_contract=self.compiled_contract,
            reference_dir=Path(self.reference_dir),
            windowing=self.windowing,
            timing=self.timing,
            output_dir=absolute(self.output_dir),
            dead_letter_dir=absolute(self.dead_letter_dir),
            storage=self.storage,
            parts_dir=self.parts_dir and absolute(self.parts_dir),
            private_dead_letters=self.private_dead_letters,
            partition_keys=self.partition_keys,
            dead_letter_topic_suffix=self.dead_letter_topic_suffix,
            num_shards=self.num_shards,
            parquet_codec=self.parquet_codec,
            epoch=epoch,
            expansion_service=expansion_service,
            follow_append_time=self.window_by != CREATE_TIME,
            create_time=CreateTimeTopics(max_out_of_order_seconds=self.max_out_of_order_seconds),
            client_properties=self.connection().for_java(),
            transforms=self.transforms,
            covered=covered or CoveredOffsets(),
            kafka_columns=self.kafka_columns,
            stores_arrow_schema=not self.has_table,
        )


@dataclass(frozen=True)
class EngineSettings:
    """The flags of the engine: what runs the job."""

    engine: str
    flink_master: str | None
    worker_pool: str
    parallelism: int
    checkpointing_interval_ms: int
    from_savepoint: str | None
    detach: bool

    @property
    def on_flink(self) -> bool:
        """Whether the engine is Flink."""
        return self.engine == FLINK


@dataclass(frozen=True)
class StartPoint:
    """Where topics begin of which the output directory has nothing.

    Attributes:
      flag: the flag and its value, as the user gave it.
      is_earliest: at their first record.
      time_ms: at the first record that Kafka stamped at this time or later, in milliseconds since
        1970; None where they begin behind their last record.
    """

    flag: str
    is_earliest: bool = False
    time_ms: int | None = None


@dataclass(frozen=True)
class EndPoint:
    """The time at which a run ends in the logs, in milliseconds since 1970, and its flag."""

    flag: str
    time_ms: int


@dataclass(frozen=True)
class Part:
    """The part of the logs that a run lands; None where it has no such end."""

    start: StartPoint | None = None
    end: EndPoint | None = None


def part_settings(values: Mapping[str, Any], now_ms: int) -> Part:
    """Convert and check `--start` and `--end`, by name.

    Raises:
      UsageError: a value is no time, or they contradict each other or another flag.
    """
    start_text, end_text = values.get("start"), values.get("end")
    start = None if start_text is None else start_point(start_text)
    end = None if end_text is None else EndPoint(f"--end={end_text}", time_ms("end", end_text))
    if start and start.time_ms is not None and start.time_ms > now_ms:
        raise UsageError(f"{start.flag}: is in the future; give --start=latest, or a time before")
    if start and end:
        begins_ms = now_ms if start_text == LATEST else start.time_ms
        if begins_ms is not None and begins_ms >= end.time_ms:
            raise UsageError(f"{start.flag} is not before {end.flag}; nothing would be read")
    if end:
        for name, reason in _NOT_WITH_END.items():
            if values.get(name):
                raise UsageError(f"{end.flag} and --{name} exclude each other: {reason}")
    if start and values.get("from_savepoint"):
        raise UsageError(
            f"{start.flag} and --from_savepoint exclude each other: a savepoint has offsets of its "
            "own"
        )
    return Part(start, end)


_NOT_WITH_END = {
    "until": "--end alone ends the run at its time",
    "detach": "no process would end the job",
    "from_savepoint": "a savepoint goes on where its job was",
}


def start_point(text: str) -> StartPoint:
    """Return where `--start` lets topics begin.

    Raises:
      UsageError: it is neither a word nor a time.
    """
    flag = f"--start={text}"
    if text in (EARLIEST, LATEST):
        return StartPoint(flag, is_earliest=text == EARLIEST)
    return StartPoint(flag, time_ms=time_ms("start", text, f"{EARLIEST}, {LATEST} or "))


def time_ms(flag: str, text: str, words: str = "") -> int:
    """Return the time that a flag has, in milliseconds since 1970.

    Args:
      flag: its name.
      text: its value.
      words: what else it may be, for the message.

    Raises:
      UsageError: it is no time with an offset, or one before 1970.
    """
    try:
        moment = parse_rfc3339(text)
        if moment.tzinfo is not None and (milliseconds := ms_of(moment)) >= 0:
            return milliseconds
    except ValueError:
        pass
    raise UsageError(
        f"--{flag}={text}: must be {words}an RFC 3339 time with its offset, such as "
        "2026-11-24T15:00Z"
    )


class MetricsSettings(NamedTuple):
    """Where metrics are served."""

    host: str
    port: int


@dataclass(frozen=True)
class EventCommand:
    """What is run for each event of a run.

    Attributes:
      words: program and arguments.
      environment: that of the user, before anything of the pipeline's own was added.
    """

    words: tuple[str, ...] = field(repr=False)
    environment: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class SupervisionSettings:
    """The flags that say how a run is supervised."""

    max_restarts: int
    breaker_limits: BreakerLimits | None
    dead_letter_topic_timeout_seconds: float
    accept_expired: bool
    log_dir: Path
    discovery_interval_seconds: float
    metrics: MetricsSettings | None = None
    on_event: EventCommand | None = None


def pipeline_settings(values: Mapping[str, Any]) -> PipelineSettings:
    """Convert and check the flags of the pipeline, by name.

    Source flags may be missing, as in the demo before its broker is up.

    Raises:
      UsageError: a value is out of range; the message names the flag, the value and the range.
    """
    for name, least in _AT_LEAST.items():
        value = values[name]
        if value is not None and value < least:
            raise UsageError(f"--{name}={value}: must be {least} or more")
    window_seconds = values["window_seconds"]
    if window_seconds > MAX_WINDOW_SECONDS:
        raise UsageError(
            f"--window_seconds={window_seconds}: must be at most {MAX_WINDOW_SECONDS}, a day, "
            "since directories are named by day and hour"
        )
    transforms = tuple(values["transform"] or ())
    for specification in transforms:
        if not _TRANSFORM.fullmatch(specification):
            raise UsageError(
                f"--transform={specification}: must be package.module:Name, such as "
                "examples.transforms:AmountBand"
            )
    for name in ("output_dir", "dead_letter_dir"):
        check_place(f"--{name}", values[name])
    if values["parts_dir"] is not None and is_url(values["parts_dir"]):
        raise UsageError(f"--parts_dir={values['parts_dir']}: must be a directory, not a URL")
    return PipelineSettings(
        kafka_bootstrap_servers=values.get("kafka_bootstrap_servers"),
        kafka_config=values.get("kafka_config"),
        input_topics=_topics(values.get("input_topics")),
        consumer_group=values.get("consumer_group") or default_consumer_group(values["output_dir"]),
        schema=values["schema"],
        schema_version_field=values["schema_version_field"],
        formats=values["formats"],
        max_columns=values["max_columns"],
        event_time_field=values["event_time_field"],
        event_time_unit=values["event_time_unit"],
        reference_dir=values["reference_dir"],
        transforms=transforms,
        max_event_age_seconds=values["max_event_age_seconds"],
        max_event_skew_seconds=values["max_event_skew_seconds"],
        max_value_bytes=values["max_value_bytes"],
        compiled_contract=values["compiled_contract"] == AUTO,
        window_by=values["window_by"],
        windowing=Windowing(window_seconds, values["watermark_delay_seconds"]),
        max_out_of_order_seconds=values["max_out_of_order_seconds"],
        timing=PaneTiming(values["late_pane_seconds"], values["early_pane_seconds"] or 0),
        output_dir=values["output_dir"],
        dead_letter_dir=dead_letter_dir_of(values["dead_letter_dir"], values["output_dir"]),
        private_dead_letters=values["dead_letter_access"] == PRIVATE,
        partition_keys=_partition_keys(values["partition_keys"]),
        allow_schema_change=values["allow_schema_change"],
        dead_letter_topic_suffix=values["dead_letter_topic_suffix"],
        num_shards=values["num_shards"],
        parquet_codec=values["parquet_codec"],
        part_retention_seconds=values["part_retention_seconds"],
        storage_config=values["storage_config"],
        parts_dir=values["parts_dir"],
        input_topic_pattern=topic_pattern(values),
        kafka_columns=kafka_columns(values["kafka_columns"]),
        keeps_null_values=values["null_values"] == ROW,
        has_table=values.get("table") is not None,
    )


_AT_LEAST = {
    "max_event_age_seconds": 0,
    "max_event_skew_seconds": 0,
    "max_columns": 1,
    "max_value_bytes": 1,
    "window_seconds": 1,
    "watermark_delay_seconds": 0,
    "max_out_of_order_seconds": 0,
    "late_pane_seconds": 1,
    "early_pane_seconds": 0,
    "num_shards": 1,
    "part_retention_seconds": 0,
}


def dead_letter_dir_of(dead_letter_dir: str, output_dir: str) -> str:
    """Return where the dead letters go; the default follows an output that is a URL.

    Raises:
      UsageError: there is no default, since the output is a whole bucket.
    """
    if dead_letter_dir != DEFAULT_DEAD_LETTER_DIR or not is_url(output_dir):
        return dead_letter_dir
    url = absolute(output_dir)
    if "/" not in url.partition("://")[2]:
        raise UsageError(
            f"--dead_letter_dir is missing: --output_dir={output_dir} is a whole bucket; name a "
            "prefix or a bucket for the dead letters, or give --output_dir a prefix"
        )
    return f"{url}-dead"


def default_consumer_group(output_dir: str) -> str:
    """Return the name of a consumer group that belongs to the output directory alone.

    Two pipelines must not share a group: each sets its offsets before its reader looks at them.
    """
    directory = absolute(output_dir).encode()
    return f"beam-pipeline-{hashlib.sha256(directory).hexdigest()[:12]}"


def _topics(text: str | None) -> tuple[str, ...]:
    """Split the topics that `--input_topics` names, each once."""
    names = (part.strip() for part in (text or "").split(","))
    topics = tuple(dict.fromkeys(filter(None, names)))
    for topic in topics:
        check_topic_name("--input_topics", topic)
        if len(topic) > MAX_TOPIC_LENGTH:
            raise UsageError(
                f"--input_topics={topic}: {len(topic)} characters; file names contain the topic's "
                f"name, which may have {MAX_TOPIC_LENGTH} at most"
            )
    return topics


def topic_pattern(values: Mapping[str, Any]) -> str | None:
    """Return the pattern of `--input_topic_pattern`; None where it is not given.

    Raises:
      UsageError: both are given, or it is no regular expression.
    """
    pattern: str | None = values.get("input_topic_pattern")
    if pattern is None:
        return None
    if values.get("input_topics"):
        raise UsageError("--input_topics and --input_topic_pattern exclude each other; give one")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"--input_topic_pattern={pattern}: is no regular expression of Python's: {error}"
        ) from None
    return pattern


def kafka_columns(text: str) -> tuple[str, ...]:
    """Return the Kafka columns that `--kafka_columns` names, in the order of the files.

    Raises:
      UsageError: a name is unknown, or a column is left out that every file must have.
    """
    names = {part.strip() for part in text.split(",")}
    unknown = sorted(names - {*KAFKA_COLUMNS})
    if unknown:
        raise UsageError(
            f"--kafka_columns={text}: {unknown[0]!r} is none of {', '.join(KAFKA_COLUMNS)}"
        )
    missing = [name for name in PROVENANCE_COLUMNS if name not in names]
    if missing:
        raise UsageError(
            f"--kafka_columns={text}: {missing[0]} is missing; every file has "
            f"{', '.join(PROVENANCE_COLUMNS)}, so that no record is lost or written twice"
        )
    return tuple(name for name in KAFKA_COLUMNS if name in names)


def _partition_keys(text: str) -> tuple[str, str]:
    """Split the names that `--partition_keys` gives to day and hour."""
    names = [part.strip() for part in text.split(",")]
    is_usable = len({name.casefold() for name in names}) == len(names) == 2 and all(
        _PARTITION_KEY.fullmatch(name) and not is_reserved(name) for name in names
    )
    if not is_usable:
        raise UsageError(
            f"--partition_keys={text}: must be two names for day and hour, such as dt,hour, each "
            "of letters, digits and underscores, a letter first, and no column of the pipeline"
        )
    day, hour = names
    return day, hour


def engine_settings(values: Mapping[str, Any]) -> EngineSettings:
    """Convert and check the flags of the engine, by name; `detach` and `until` may be missing.

    Raises:
      UsageError: a value is out of range, or two flags do not go together.
    """
    for name, least in (("parallelism", 1), ("checkpointing_interval", 10)):
        if values[name] < least:
            raise UsageError(f"--{name}={values[name]}: must be {least} or more")
    if values["engine"] != FLINK:
        for name in ("flink_master", "from_savepoint", "detach"):
            if values.get(name):
                raise UsageError(f"--{name} needs --engine=flink, or ./run_flink.sh")
    detach = bool(values.get("detach"))
    if detach and not values["flink_master"]:
        raise UsageError("--detach needs --flink_master: a cluster started here ends with the run")
    if detach and values.get("until"):
        raise UsageError("--detach and --until exclude each other: no process would end the job")
    for name in ("flink_master", "worker_pool"):
        value = values[name]
        host, _, port = (value or "any:1").rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"--{name}={value}: must be HOST:PORT")
    return EngineSettings(
        engine=values["engine"],
        flink_master=values["flink_master"],
        worker_pool=values["worker_pool"],
        parallelism=values["parallelism"],
        checkpointing_interval_ms=values["checkpointing_interval"],
        from_savepoint=values["from_savepoint"],
        detach=detach,
    )


def supervision_settings(values: Mapping[str, Any]) -> SupervisionSettings:
    """Convert and check the flags of supervision, by name.

    Raises:
      UsageError: a value is out of range.
    """
    max_restarts, ratio = values["max_restarts"], values["max_dead_ratio"]
    window_seconds = values["dead_ratio_window_seconds"]
    if max_restarts < 0:
        raise UsageError(f"--max_restarts={max_restarts}: must be 0 or more")
    if ratio is not None and not 0 <= ratio <= 1:
        raise UsageError(f"--max_dead_ratio={ratio:g}: must be from 0 to 1")
    if not window_seconds > 0:
        raise UsageError(f"--dead_ratio_window_seconds={window_seconds:g}: must be more than 0")
    timeout_seconds = values["dead_letter_topic_timeout_seconds"]
    if not 0 <= timeout_seconds < float("inf"):
        raise UsageError(
            f"--dead_letter_topic_timeout_seconds={timeout_seconds:g}: must be 0 or more"
        )
    interval_seconds = values["discovery_interval"]
    if not 0 <= interval_seconds < float("inf"):
        raise UsageError(f"--discovery_interval={interval_seconds:g}: must be 0 or more")
    limits = None if ratio is None else BreakerLimits(ratio, window_seconds)
    return SupervisionSettings(
        max_restarts=max_restarts,
        breaker_limits=limits,
        dead_letter_topic_timeout_seconds=timeout_seconds,
        accept_expired=values["accept_expired"],
        log_dir=values["log_dir"],
        discovery_interval_seconds=interval_seconds,
        metrics=metrics_settings(values),
        on_event=_event_command(values["on_event"]),
    )


def _event_command(text: str | None) -> EventCommand | None:
    """Split the command of `--on_event` into words, as a shell would."""
    if text is None:
        return None
    flag = f"--on_event={masked('on_event', text)}"
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"{flag}: can't be split into words ({error}); check its quotes") from None
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"{flag}: the program {words[0] if words else ''!r} is missing or can't be run; give a "
            "path, or a name on PATH. There is no shell: for one give sh -c '…'"
        )
    return EventCommand(words, dict(os.environ))


def metrics_settings(values: Mapping[str, Any]) -> MetricsSettings | None:
    """Convert and check the flags that say where metrics are served; None serves none.

    Raises:
      UsageError: the port is out of range.
    """
    port = values["metrics_port"]
    if port is None:
        return None
    if not 1 <= port <= _MAX_PORT:
        raise UsageError(f"--metrics_port={port}: must be from 1 to {_MAX_PORT}")
    return MetricsSettings(values["metrics_host"], port)
