"""Shared by all tests: profiles of hypothesis, flags of the fault suite, Java, object stores."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from stores import Store, start_azure, start_gcs, start_s3
from table_readers import DuckDB, find_duckdb

from beam_pipeline.compiled.kernel import KernelLibrary
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.resources import java_lock_path
from beam_pipeline.runtime.programs.java import fetch_jars, find_java
from beam_pipeline.runtime.programs.kernel import find_kernel
from beam_pipeline.runtime.programs.progress import SetupProgress

# No deadline and no check for slowness: a broker may keep the machine busy.
_local = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# The tests start a hundred JVMs for a few seconds each. Java's second compiler would take most of
# their CPU time without a benefit.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")

settings.register_profile("local", _local)
settings.register_profile("ci", _local, derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "the fault suite, tests/faults")
    group.addoption(
        "--faults",
        choices=("ci", "all"),
        default="ci",
        help="a selection of about two minutes, or every scenario (default: ci)",
    )
    group.addoption(
        "--faults_seed",
        type=int,
        default=1,
        metavar="N",
        help="decides on every random moment and choice (default: 1)",
    )
    group.addoption(
        "--faults_report",
        type=Path,
        metavar="FILE",
        help="where the table of results goes, as Markdown (default: the terminal alone)",
    )
    group.addoption(
        "--faults_broker_away_seconds",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="how long the broker is away in the scenario of that name (default: 20)",
    )


_LONGEST_FIRST = (
    "integration/test_flink.py",
    "integration/test_examples.py",
    "faults",
    "integration",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files that take minutes first, so that no worker runs one alone at the end."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(Path(__file__).parent).as_posix()
        places = enumerate(_LONGEST_FIRST)
        return next(
            (place for place, prefix in places if path.startswith(prefix)), len(_LONGEST_FIRST)
        )

    items.sort(key=rank)


@pytest.fixture(scope="session")
def java() -> Path:
    """The `java` program."""
    with SetupProgress() as progress:
        return find_java(progress)


@pytest.fixture(scope="session")
def kafka_jars() -> list[Path]:
    """The broker's class path."""
    with SetupProgress() as progress:
        return fetch_jars(java_lock_path("kafka"), progress)


@pytest.fixture(scope="session")
def kernel_library() -> KernelLibrary:
    """The native code of compiled contracts."""
    try:
        with SetupProgress() as progress:
            return find_kernel(progress)
    except EnvironmentFailure as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def duckdb() -> DuckDB:
    """DuckDB with its Iceberg extension."""
    try:
        return find_duckdb()
    except EnvironmentFailure as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def _running(
    start: Callable[[Path], Store], directory: Path, *, needed_in_ci: bool
) -> Iterator[Store]:
    try:
        store = start(directory)
    except EnvironmentFailure as error:
        if needed_in_ci and os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield store
    store.service.process.terminate()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """An S3 server that runs until the last test."""
    yield from _running(start_s3, tmp_path_factory.mktemp("s3") / "data", needed_in_ci=True)


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A server of Google Cloud Storage that runs until the last test."""
    yield from _running(start_gcs, tmp_path_factory.mktemp("gcs") / "data", needed_in_ci=False)


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A server of Azure Blob Storage that runs until the last test."""
    directory = tmp_path_factory.mktemp("azure") / "data"
    yield from _running(start_azure, directory, needed_in_ci=False)


def _root(store: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return store.url(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def s3_url(s3_server: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a root on the S3 server that no other test uses; the environment has its keys."""
    return _root(s3_server, monkeypatch)


@pytest.fixture
def gcs_url(gcs_server: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """As `s3_url`, on Google Cloud Storage."""
    return _root(gcs_server, monkeypatch)


@pytest.fixture
def azure_url(azure_server: Store, monkeypatch: pytest.MonkeyPatch) -> str:
    """As `s3_url`, on Azure Blob Storage."""
    return _root(azure_server, monkeypatch)
