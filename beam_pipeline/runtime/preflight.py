"""The checks before a graph is built. `run` makes them all, `doctor` shows them one by one.

A check changes nothing, but for small objects that it writes to an object store and removes again.
It returns what it found, or raises the one line that names the flag, the value and the remedy.
`prepare` makes the directories and topics that are missing.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.tree import partition_keys_in
from beam_pipeline.kafka.admin import (
    LOG_APPEND_TIME,
    TIMESTAMP_TYPE,
    TopicAccess,
    TopicSpec,
    create_topics,
    partition_counts,
    partition_stamped_after,
    require_cluster,
    topic_access,
    topic_config,
)
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.runtime.held_columns import check_columns
from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.settings.flags import APPEND_TIME, CREATE_TIME, EVENT_TIME
from beam_pipeline.settings.secret_files import open_file_warning
from beam_pipeline.storage.durable import make_directory
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.probe import probe
from beam_pipeline.storage.urls import is_url
from beam_pipeline.topic_names import is_topic_name

DEAD_LETTER_OVERHEAD_BYTES = 1024 * 1024
"""Room for the headers that a dead letter gets beside the original record."""

MINIMUM_FREE_BYTES = 2 * 1024**3
MAX_CLOCK_SKEW_SECONDS = 5

_BEFORE_LIMIT = "message.timestamp.before.max.ms"
_STAMP_LIMITS = (_BEFORE_LIMIT, "message.timestamp.after.max.ms")


@dataclass(frozen=True)
class Observation:
    """What a check found. With `is_warning` the run goes on, and the user should know."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Check:
    """A named check; `look` raises a PipelineError where the run can't go on."""

    name: str
    look: Callable[[], Observation]


def local_checks(settings: PipelineSettings) -> list[Check]:
    """Return the checks of the files and directories that the flags name."""
    return [
        Check("schema", lambda: _look_at_schema(settings)),
        Check("output", lambda: _look_at_output(settings)),
        Check("columns", lambda: _look_at_columns(settings)),
        Check(
            "dead letters",
            lambda: _look_at_dead_letter_directory(settings),
        ),
        *_parts_checks(settings),
    ]


def _parts_checks(settings: PipelineSettings) -> Iterator[Check]:
    if settings.parts_dir is not None:
        yield Check("parts", partial(_look_at_directory, settings.parts_dir, "--parts_dir"))


def broker_check(settings: PipelineSettings) -> Check:
    """Return the check of the cluster, which all others of the cluster need."""
    return Check("broker", lambda: _look_at_broker(settings))


def topic_checks(settings: PipelineSettings) -> dict[str, Check]:
    """Return the check of each input topic; none needs another."""
    return {
        topic: Check("topics", partial(_look_at_topic, settings, topic))
        for topic in settings.input_topics
    }


def kafka_checks(settings: PipelineSettings) -> list[Check]:
    """Return the checks of the cluster that need all input topics to be right."""
    return [
        Check("dlq topics", lambda: _look_at_dead_letter_topics(settings)),
        Check("clocks", lambda: _look_at_clocks(settings)),
    ]


def check(settings: PipelineSettings) -> Iterator[str]:
    """Make every check; yield the warnings.

    Raises:
      UsageError: a flag is wrong.
      EnvironmentFailure: the broker, a topic or a directory is not usable.
    """
    settings.topics(), settings.connection()  # a flag that is missing comes first
    for each in (
        *local_checks(settings),
        broker_check(settings),
        *topic_checks(settings).values(),
        *kafka_checks(settings),
    ):
        observation = each.look()
        if observation.is_warning:
            yield f"{each.name}: {observation.text}"


def prepare(settings: PipelineSettings) -> None:
    """Make the directories and the dead-letter topics that are missing; an object store has none.

    Raises:
      EnvironmentFailure: a directory can't be written, or a topic can't be made.
    """
    if not is_url(settings.output_dir):
        check_writable(Path(settings.output_dir), "--output_dir")
    if not is_url(settings.dead_letter_dir):
        check_writable(
            Path(settings.dead_letter_dir),
            "--dead_letter_dir",
            private=settings.private_dead_letters,
        )
    if settings.parts_dir is not None:
        check_writable(Path(settings.parts_dir), "--parts_dir")
    make_dead_letter_topics(
        settings.connection(), settings.topics(), settings.dead_letter_topic_suffix
    )


def admit_topic(settings: PipelineSettings, topic: str) -> None:
    """Check a topic that came while the pipeline runs, and make its dead-letter topic.

    Raises:
      UsageError, EnvironmentFailure: it can't be read.
    """
    _look_at_topic(replace(settings, input_topics=(*settings.input_topics, topic)), topic)
    make_dead_letter_topics(settings.connection(), (topic,), settings.dead_letter_topic_suffix)


def check_writable(directory: Path, flag: str, *, private: bool = False) -> None:
    """Make `directory` where it is missing, and a file in it for a moment.

    A `private` directory is made for its user alone; an existing one keeps its mode.

    Raises:
      EnvironmentFailure: it can't be written.
    """
    probe = directory / f".{flag.strip('-')}.probe"
    try:
        make_directory(directory, private=private)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EnvironmentFailure(
            f"{flag}={directory}: {error.strerror}; give a directory that can be written"
        ) from None


def _look_at_schema(settings: PipelineSettings) -> Observation:
    contract = settings.contract()
    if not Path(settings.reference_dir).is_dir():
        raise UsageError(f"--reference_dir={settings.reference_dir}: no such directory")
    field = settings.event_time_path(contract) or "Kafka's timestamp"
    columns = len(contract.event_schema)
    name = contract.ref.id or contract.source
    return Observation(f"{name}: {columns} columns, event time {field}")


def _look_at_output(settings: PipelineSettings) -> Observation:
    """Check the output directory, and that its files are below the same partition keys."""
    output_dir = settings.output_path
    observation = _look_at_place(output_dir, "--output_dir")
    for keys in sorted(partition_keys_in(output_dir)):
        if keys != settings.partition_keys:
            raise UsageError(
                f"--partition_keys={','.join(settings.partition_keys)}: --output_dir="
                f"{settings.output_dir} has files below {keys[0]}=…/{keys[1]}=…, and readers take "
                f"one set of keys; give --partition_keys={','.join(keys)}, or a new --output_dir"
            )
    return observation


def _look_at_dead_letter_directory(settings: PipelineSettings) -> Observation:
    """Check the dead-letter directory, and that its files are not among the Parquet files."""
    dead_letter_dir = settings.dead_letter_path
    observation = _look_at_place(dead_letter_dir, "--dead_letter_dir")
    where = _where(settings.output_path, dead_letter_dir)
    if where is None:
        return observation
    return Observation(
        f"{observation.text}; --dead_letter_dir={settings.dead_letter_dir} {where} --output_dir="
        f"{settings.output_dir}, so readers of all files there get dead letters and rows mixed; "
        f"give two {'prefixes' if is_url(settings.output_dir) else 'directories'} side by side",
        is_warning=True,
    )


def _where(output_dir: StoredPath, dead_letter_dir: StoredPath) -> str | None:
    """Return how the second place lies to the first: "is", "lies inside", "contains" or not."""
    output, dead = _names_of(output_dir), _names_of(dead_letter_dir)
    if output == dead:
        return "is"
    if dead[: len(output)] == output:
        return "lies inside"
    if output[: len(dead)] == dead:
        return "contains"
    return None


def _names_of(place: StoredPath) -> tuple[str, ...]:
    return place.resolve().parts if isinstance(place, Path) else tuple(str(place).split("/"))


def _look_at_columns(settings: PipelineSettings) -> Observation:
    """Check that the columns fit those of the files in the output directory."""
    notices = check_columns(settings)
    if notices:
        return Observation(f"{settings.output_dir}: {'; '.join(notices)}", is_warning=True)
    return Observation("fit those of the files in the output directory, if there are any")


def _look_at_place(place: StoredPath, flag: str) -> Observation:
    """Check that a directory can be written and has room, or that a store honours conditions."""
    if isinstance(place, Path):
        return _look_at_directory(str(place), flag)
    probe(place.storage)
    return Observation(f"{place} can be written, and the store honours the conditions of writes")


def _look_at_directory(name: str, flag: str) -> Observation:
    directory = Path(name).absolute()
    nearest = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise EnvironmentFailure(
            f"{flag}={name}: {nearest} can't be written; give a directory that can be written"
        )
    free_bytes = shutil.disk_usage(nearest).free
    text = f"{directory}, {free_bytes / 1024**3:.1f} GiB free"
    if free_bytes < MINIMUM_FREE_BYTES:
        return Observation(f"{text}; make room, a run needs 2 GiB or more", is_warning=True)
    return Observation(text)


def _look_at_broker(settings: PipelineSettings) -> Observation:
    connection = settings.connection()
    require_cluster(connection)
    text = f"{connection.bootstrap_servers} answers"
    if settings.kafka_config is not None:
        path = Path(settings.kafka_config)
        if warning := open_file_warning("--kafka_config", path, connection.properties):
            return Observation(f"{text}; {warning}", is_warning=True)
    return Observation(text)


def _look_at_topic(settings: PipelineSettings, topic: str) -> Observation:
    """Check that a topic exists and stamps records as `--window_by` needs.

    A topic whose records are stamped by their producers serves for `event_time`, with a warning.
    """
    connection = settings.connection()
    check_dead_letter_suffix(settings.topics(), settings.dead_letter_topic_suffix)
    partitions = partition_counts(connection, [topic])
    if topic not in partitions:
        raise EnvironmentFailure(
            f"--input_topics={topic}: no such topic on {connection.bootstrap_servers}; "
            "create it, or correct the name"
        )
    config = topic_config(connection, [topic])[topic]
    kind = config.get(TIMESTAMP_TYPE)
    if settings.window_by == APPEND_TIME and kind != LOG_APPEND_TIME:
        raise EnvironmentFailure(
            f"--input_topics={topic}: has {TIMESTAMP_TYPE}={kind}, and --window_by="
            f"{APPEND_TIME} needs {LOG_APPEND_TIME}; {_append_time_remedy(topic)}, "
            f"or give --window_by={EVENT_TIME} or {CREATE_TIME}"
        )
    kept_ms = int(config["retention.ms"])
    kept = "for ever" if kept_ms < 0 else f"for {kept_ms / 86_400_000:.1f} days"
    text = f"{topic}: {partitions[topic]} partitions, records kept {kept}"
    if settings.window_by != EVENT_TIME or kind == LOG_APPEND_TIME:
        return Observation(text)
    return Observation(
        f"{text}; its timestamps are the producers' ({TIMESTAMP_TYPE}={kind}), so windows stay "
        f"open --max_out_of_order_seconds={settings.max_out_of_order_seconds} longer, and records "
        "that a producer sends later than that get files of their own. "
        f"{LOG_APPEND_TIME} needs no such wait: {_append_time_remedy(topic)}",
        is_warning=True,
    )


def _append_time_remedy(topic: str) -> str:
    return (
        f"set it with kafka-configs --alter --topic {topic} --add-config "
        f"{TIMESTAMP_TYPE}={LOG_APPEND_TIME}"
    )


def _look_at_dead_letter_topics(settings: PipelineSettings) -> Observation:
    """Look for settings with which a dead-letter topic refuses letters. Writes nothing."""
    connection, suffix = settings.connection(), settings.dead_letter_topic_suffix
    names = {f"{topic}{suffix}": topic for topic in settings.topics()}
    access = topic_access(connection, names)
    configs = topic_config(connection, [*access, *settings.topics()])
    problems = [
        f"{name} {problem}"
        for name, topic in names.items()
        if name in access
        for problem in _limits_of(configs[name], configs[topic], access[name])
    ]
    if problems:
        return Observation(
            f"{'; '.join(problems)}. Such letters are sent in a form that the topic takes, or are "
            "in their file only (dlq stats counts them); alter the topic to have them whole",
            is_warning=True,
        )
    return Observation(
        "; ".join(
            f"{name}: {'takes what its input topic took' if name in access else 'will be made'}"
            for name in names
        )
    )


def _limits_of(
    config: Mapping[str, str], input_config: Mapping[str, str], access: TopicAccess
) -> Iterator[str]:
    """Yield what a dead-letter topic would refuse of the records of its input topic."""
    max_bytes = int(config["max.message.bytes"])
    needed = int(input_config["max.message.bytes"]) + DEAD_LETTER_OVERHEAD_BYTES
    if max_bytes < needed:
        yield f"has max.message.bytes={max_bytes}, and letters may need {needed}"
    if "compact" in config.get("cleanup.policy", ""):
        yield "is compacted (cleanup.policy): it refuses null keys, and keeps one letter a key"
    if config.get(TIMESTAMP_TYPE) != LOG_APPEND_TIME:
        for name in _STAMP_LIMITS:
            limit = config.get(name)
            if limit is not None and int(limit) < _stamps_in(input_config, name):
                yield f"has {name}={limit}, and refuses letters with the timestamps of some records"
    if access.replicas < int(config.get("min.insync.replicas", 1)):
        yield (
            f"has min.insync.replicas={config['min.insync.replicas']} and {access.replicas} "
            "replicas: brokers before Kafka 4 take no record then"
        )
    if access.may_write is False:
        yield "can't be written by this user (no WRITE authorization)"


def _stamps_in(input_config: Mapping[str, str], limit: str) -> int:
    """Return how far the timestamps of an input topic may be from now, in milliseconds.

    A topic that is stamped by its brokers has no timestamp ahead; its records may be as old as its
    retention.
    """
    if input_config.get(TIMESTAMP_TYPE) != LOG_APPEND_TIME:
        return int(input_config.get(limit, 0))
    if limit == _BEFORE_LIMIT:
        kept_ms = int(input_config["retention.ms"])
        return kept_ms if kept_ms >= 0 else 2**63 - 1
    return 0


def _look_at_clocks(settings: PipelineSettings) -> Observation:
    """Look for records stamped in the future: a sign of clocks that differ. Writes nothing."""
    ahead_ms = round((time.time() + MAX_CLOCK_SKEW_SECONDS) * 1000)
    partition = partition_stamped_after(settings.connection(), settings.topics(), ahead_ms)
    if partition is None:
        return Observation(
            f"no record is stamped more than {MAX_CLOCK_SKEW_SECONDS} s ahead of this machine"
        )
    return Observation(
        f"{partition} has records stamped more than {MAX_CLOCK_SKEW_SECONDS} s from now: "
        "synchronise this machine's clock and those that stamp records by NTP, the brokers' or, "
        "with --window_by=create_time, the producers'",
        is_warning=True,
    )


def check_dead_letter_suffix(topics: Sequence[str], suffix: str) -> None:
    """Refuse a suffix that makes no topic, or an input topic.

    Raises:
      UsageError: it does.
    """
    for topic in topics:
        if not is_topic_name(f"{topic}{suffix}"):
            raise UsageError(
                f"--dead_letter_topic_suffix={suffix!r}: {topic}{suffix} is no name for a topic; "
                "it may have letters, digits, dots, dashes and underscores, 249 in all"
            )
    both = sorted({f"{topic}{suffix}" for topic in topics} & set(topics))
    if both:
        raise UsageError(
            f"--dead_letter_topic_suffix={suffix!r}: {both[0]} is an input topic itself"
        )


def make_dead_letter_topics(
    connection: KafkaConnection, topics: Sequence[str], suffix: str
) -> None:
    """Make the dead-letter topics that are missing, as wide as their input topics.

    Raises:
      EnvironmentFailure: a topic can't be made.
    """
    names = {f"{topic}{suffix}": topic for topic in topics}
    partitions = partition_counts(connection, [*names, *topics])
    configs = topic_config(connection, topics)
    missing = [
        TopicSpec(name, partitions[topic], config=_dead_letter_topic_config(configs[topic]))
        for name, topic in names.items()
        if name not in partitions
    ]
    if missing:
        create_topics(connection, missing, exist_ok=True)


def _dead_letter_topic_config(input_config: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a topic that takes each record of its input topic."""
    max_bytes = int(input_config["max.message.bytes"]) + DEAD_LETTER_OVERHEAD_BYTES
    stamps = {name: input_config[name] for name in _STAMP_LIMITS if name in input_config}
    return {"max.message.bytes": str(max_bytes), **stamps}
