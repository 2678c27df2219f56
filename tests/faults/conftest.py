"""A broker that may be killed, a scenario for each test, and the table of their results."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from faults.results import Result, markdown
from faults.scenario import MortalStore, Scenario
from integration.pipeline_runs import PipelineRun

from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.runtime.programs.broker import EmbeddedBroker

PARTITIONS = 3
_RESULTS = pytest.StashKey[list[Result]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_RESULTS] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --faults=ci only the scenarios that are marked so stay."""
    if config.getoption("faults") == "all":
        return
    left_out = [
        item
        for item in items
        if (marker := item.get_closest_marker("faults")) and not marker.kwargs.get("ci")
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    results = config.stash.get(_RESULTS, [])
    if results:
        terminalreporter.section("faults")
        terminalreporter.write(markdown(results))


def record(config: pytest.Config, result: Result) -> None:
    """Adds a row to the table; the file has what there is, should the suite be cut short."""
    results = config.stash[_RESULTS]
    results.append(result)
    report: Path | None = config.getoption("faults_report")
    if report:
        report.write_text(markdown(results), encoding="utf-8")


@pytest.fixture(scope="session")
def mortal_broker(
    java: Path, kafka_jars: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedBroker]:
    """A broker that nothing but these tests uses."""
    directory = tmp_path_factory.mktemp("mortal-broker")
    with EmbeddedBroker(
        directory / "kafka", java=java, jars=kafka_jars, log_file=directory / "broker.log"
    ) as broker:
        yield broker


@pytest.fixture(scope="session")
def mortal_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MortalStore]:
    """An S3 server that nothing but these tests uses."""
    store = MortalStore(tmp_path_factory.mktemp("mortal-store") / "objects")
    yield store
    store.end()


@pytest.fixture
def store_scenario(
    scenario: Callable[..., Scenario], mortal_store: MortalStore
) -> Callable[..., Scenario]:
    """Makes a scenario as `scenario` does, whose files go to an object store."""

    def make(name: str, *flags: str) -> Scenario:
        mortal_store.start()
        made = scenario(name, *flags)
        made.store, made.run.store = mortal_store, mortal_store.at
        return made

    return make


@pytest.fixture
def scenario(
    request: pytest.FixtureRequest, mortal_broker: EmbeddedBroker, tmp_path: Path
) -> Iterator[Callable[..., Scenario]]:
    """Makes the test's scenario: its name, and flags of `run` beside the usual ones."""
    made: list[Scenario] = []

    def make(name: str, *flags: str, partitions: int = PARTITIONS) -> Scenario:
        if not mortal_broker.process.alive:
            mortal_broker.start()
            mortal_broker.wait_ready()
        topic = f"faults-{uuid.uuid4().hex[:12]}"
        config = {"message.timestamp.type": "LogAppendTime"}
        create_topics(mortal_broker.connection, [TopicSpec(topic, partitions, config)])
        scenario = Scenario(
            name=name,
            seed=request.config.getoption("faults_seed"),
            run=PipelineRun(tmp_path / "run"),
            broker=mortal_broker,
            topic=topic,
            record=partial(record, request.config),
        )
        scenario.flags += flags
        made.append(scenario)
        return scenario

    yield make
    for one in made:
        one.end()
