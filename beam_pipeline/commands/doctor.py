"""`beam-pipeline doctor`: check what a run needs, one thing at a time."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

from beam_pipeline import resources
from beam_pipeline.commands.launch import directories_of
from beam_pipeline.errors import PipelineError
from beam_pipeline.runtime import preflight
from beam_pipeline.runtime.discovery import with_matching_topics
from beam_pipeline.runtime.preflight import Check
from beam_pipeline.settings.config import (
    EngineSettings,
    PipelineSettings,
    engine_settings,
    pipeline_settings,
)
from beam_pipeline.settings.flags import add_engine_flags, add_pipeline_flags, add_shared
from beam_pipeline.storage.protocol import StorageAwayError

GREEN, NOTE, RED = "ok", "note", "wrong"

_DESCRIPTION = """\
Checks what a run needs, with the flags that `run` will get: Python, Java, Prism (or Flink with
--engine=flink), jars and their checksums, the kernel of compiled contracts, the schema, directories
and disk space, the files of earlier runs, and, where a broker is named, the broker, the topics,
their settings and the clocks. It changes and downloads nothing; in an object store it writes a few
small objects and removes them again. A run makes the same checks.
"""
_EPILOG = """\
exit codes:
  0  a run can start
  1  it can't; a line says what to do
  2  a flag is wrong

example:
  %(prog)s --kafka_bootstrap_servers=localhost:9092 --input_topics=orders \\
    --schema=order.schema.json
"""
MARKS = {GREEN: ("✓", "green"), NOTE: ("•", "yellow"), RED: ("✗", "red")}


@dataclass(frozen=True)
class Finding:
    """The result of one check: `state` is GREEN, NOTE or RED, `text` says what, with the remedy."""

    name: str
    state: str
    text: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `run` that shape the pipeline and name its engine, and `--json`."""
    parser.description = _DESCRIPTION
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    add_pipeline_flags(parser)
    add_engine_flags(parser)
    add_shared(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Look at everything and print it; return 0 when nothing is wrong.

    Raises:
      UsageError: a flag is out of range.
    """
    from rich.console import Console
    from rich.text import Text

    from beam_pipeline.terminal import printable

    settings, engine = pipeline_settings(vars(args)), engine_settings(vars(args))
    findings = []
    console = Console()
    for finding in look(settings, engine):
        findings.append(finding)
        if not args.json:
            mark, colour = MARKS[finding.state]
            line = Text(f"{mark} ", colour)
            line.append(f"{finding.name:<13}", "bold").append(printable(finding.text))
            console.print(line, soft_wrap=True)
    if args.json:
        json.dump([vars(finding) for finding in findings], sys.stdout, indent=2)
        sys.stdout.write("\n")
    return 1 if any(finding.state == RED for finding in findings) else 0


def look(settings: PipelineSettings, engine: EngineSettings) -> Iterator[Finding]:
    """Yield each finding as it is made: the programs, then what `run` checks, in its order."""
    programs: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("Python", _python),
        ("Java", _java),
        *([] if engine.on_flink else [("Prism", _prism)]),
        ("jars", lambda: _jars("flink" if engine.on_flink else "expansion")),
        ("jars, demo", lambda: _jars("kafka")),
        ("kernel", lambda: _kernel(settings)),
    ]
    for name, examine in programs:
        yield _finding(name, examine)
    for check in preflight.local_checks(settings):
        yield _finding_of(check)
    yield _finding("ledger", lambda: _ledger(settings))
    yield _finding("lease", lambda: _lease(settings))
    if engine.on_flink:
        yield from _flink(settings, engine)
    if not (settings.kafka_bootstrap_servers or settings.kafka_config):
        yield Finding("broker", NOTE, "not checked: name it in --kafka_bootstrap_servers")
        return
    finding = _finding_of(preflight.broker_check(settings))
    yield finding
    if finding.state == RED:
        return
    try:
        settings = with_matching_topics(settings)
    except PipelineError as error:
        yield Finding("topics", RED, str(error))
        return
    good_topics = []
    for topic, check in preflight.topic_checks(settings).items():
        finding = _finding_of(check)
        yield finding
        if finding.state != RED:
            good_topics.append(topic)
    if not good_topics:
        return
    usable = replace(settings, input_topics=tuple(good_topics))
    yield _finding("partitions", lambda: _partitions(usable))
    for check in preflight.kafka_checks(usable):
        yield _finding_of(check)


def _finding_of(check: Check) -> Finding:
    def examine() -> tuple[str, str]:
        observation = check.look()
        return NOTE if observation.is_warning else GREEN, observation.text

    return _finding(check.name, examine)


def _finding(name: str, examine: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(name, *examine())
    except (PipelineError, StorageAwayError) as error:
        return Finding(name, RED, str(error))


def _python() -> tuple[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        return RED, f"{python}; use 3.10 to 3.13"
    try:
        return GREEN, f"{python}, Apache Beam {version('apache-beam')}"
    except PackageNotFoundError:
        return RED, f"{python} without Apache Beam; start with ./run_direct.sh, which installs it"


def _java() -> tuple[str, str]:
    from beam_pipeline.runtime.programs.java import MINIMUM_JAVA, look_for_java

    java = look_for_java()
    if java is None:
        return (
            NOTE,
            f"none of version {MINIMUM_JAVA} or newer; the first start fetches one from PyPI",
        )
    text = f"{java.version}, {java.path} (from {java.source})"
    if java.passed_over:
        return GREEN, f"{text}; not used: {'; '.join(java.passed_over)}"
    return GREEN, text


def _prism() -> tuple[str, str]:
    from beam_pipeline.runtime.prism.build import look_for_prism, prism_release

    binary = look_for_prism()
    if binary is None:
        return NOTE, f"{prism_release()} is not in the cache; the first start builds it"
    return GREEN, f"{prism_release()}, {binary}"


def _jars(name: str) -> tuple[str, str]:
    from beam_pipeline.runtime.programs.java import look_for_jars

    jars = look_for_jars(resources.java_lock_path(name), verify=True)
    if jars.altered:
        path = jars.directory / jars.altered[0].cache_name
        return RED, f"{path} does not have the locked checksum; remove it, and it is fetched again"
    if jars.missing:
        counts = f"{len(jars.missing)} of {len(jars.paths)}"
        return NOTE, f"{counts} are not in the cache; they are fetched when needed"
    return GREEN, f"{len(jars.paths)} in {jars.directory}, checksums right"


def _kernel(settings: PipelineSettings) -> tuple[str, str]:
    from beam_pipeline.runtime.programs.kernel import look_for_kernel

    if not settings.compiled_contract:
        return NOTE, "not used, by --compiled_contract=off; records take the exact path"
    library = look_for_kernel()
    if library is None:
        fetch = f"{resources.program('run_direct.sh')} fetch"
        return NOTE, f"not built; `{fetch}` builds it, and until then records take the exact path"
    return GREEN, f"built, {library.digest} in the cache"


def _flink(settings: PipelineSettings, engine: EngineSettings) -> Iterator[Finding]:
    from beam_pipeline.runtime.flink import preflight as flink
    from beam_pipeline.runtime.flink.rest import FlinkRest

    if not engine.flink_master:
        yield _finding("Flink", _flink_distribution)
        return
    rest = FlinkRest(engine.flink_master)

    def version() -> tuple[str, str]:
        overview = flink.check_version(rest)
        return GREEN, f"{overview.version} at {rest.web_url}"

    def slots() -> tuple[str, str]:
        overview = rest.overview()
        flink.check_slots(rest, overview, engine.parallelism)
        return GREEN, f"{overview.free_slots} of {overview.slots} are free"

    def pools() -> tuple[str, str]:
        return (
            GREEN,
            f"reachable at {', '.join(flink.check_worker_pools(rest, engine.worker_pool))}",
        )

    def jars() -> tuple[str, str]:
        if flink.needs_jars(rest):
            return (
                NOTE,
                "not in the cluster's lib, so each job ships 150 MB; see ./run_flink.sh jars",
            )
        return GREEN, "in the cluster's lib"

    def storage() -> tuple[str, str]:
        doubts = list(flink.unshared(flink.task_manager_hosts(rest), directories_of(settings)))
        if doubts:
            return NOTE, "; ".join(doubts)
        return GREEN, "no sign that the workers do not share it"

    flink_finding = _finding("Flink", version)
    yield flink_finding
    if flink_finding.state == GREEN:
        looks = {"slots": slots, "worker pools": pools, "Beam's jars": jars, "storage": storage}
        for name, examine in looks.items():
            yield _finding(name, examine)


def _flink_distribution() -> tuple[str, str]:
    from beam_pipeline.runtime.flink.distribution import look_for_flink

    found = look_for_flink()
    if found is None:
        return NOTE, "not in the cache; the first start fetches 230 MB from PyPI"
    return GREEN, f"{found.version}, {found.directory}"


def _ledger(settings: PipelineSettings) -> tuple[str, str]:
    from beam_pipeline.files.ledger import load_ledger
    from beam_pipeline.files.left_out import left_out_text, load_left_out

    output_dir = settings.output_path
    if not output_dir.is_dir():
        return GREEN, "no earlier run in these directories"
    ledger = load_ledger(output_dir, settings.dead_letter_path)
    partitions = list(ledger.covered.partitions())
    text = f"{len(ledger.files):,} files; {len(partitions):,} partitions landed so far"
    if left_out := load_left_out(output_dir).note.ranges:
        text += f"; left out: {left_out_text(left_out)}"
    return GREEN, text


def _lease(settings: PipelineSettings) -> tuple[str, str]:
    from beam_pipeline.runtime.lease import holder_of

    held = [
        f"{flag}={directory} is being written by {holder.name}"
        for flag, directory in directories_of(settings).items()
        if (holder := holder_of(directory)) is not None
    ]
    if held:
        return NOTE, f"{'; '.join(held)}; a second run there is refused"
    return GREEN, "no pipeline writes to these directories now"


def _partitions(settings: PipelineSettings) -> tuple[str, str]:
    """Compare the partitions of the topics with those that were landed."""
    from beam_pipeline.files.ledger import load_ledger
    from beam_pipeline.kafka.admin import partition_counts

    landed: dict[str, set[int]] = {}
    output_dir = settings.output_path
    if output_dir.is_dir():
        ledger = load_ledger(output_dir, settings.dead_letter_path)
        for topic, partition in ledger.covered.partitions():
            landed.setdefault(topic, set()).add(partition)
    gone, new = [], []
    for topic, count in partition_counts(settings.connection(), settings.input_topics).items():
        of_topic = landed.get(topic, set())
        gone += [f"{topic}/{partition}" for partition in sorted(of_topic - set(range(count)))]
        if of_topic:
            new += [f"{topic}/{partition}" for partition in sorted(set(range(count)) - of_topic)]
    if gone:
        return RED, (
            f"{', '.join(gone)} landed and not in the topic any more: it was deleted and created "
            "again, or this is another cluster; give other --output_dir and --dead_letter_dir"
        )
    if new:
        return NOTE, f"{', '.join(new)} not landed yet: without records, or new since the last run"
    return GREEN, "those of the files are in the topics"
