"""Holds the markers of complete hours against a count of the files by pyarrow and json alone."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

MARKER = "_COMPLETE.json"
Place = tuple[str, str]
"""Topic, and partition as text."""


@dataclass
class MarkedTree:
    """An output and a dead-letter directory of topics whose logs begin at 0 and have no gaps."""

    output_dir: Path
    dead_letter_dir: Path

    def markers(self) -> dict[str, dict[str, Any]]:
        """The markers in place, by the directories of their hours."""
        paths = sorted(self.output_dir.glob(f"dt=*/hour=*/{MARKER}"))
        return {
            str(path.parent.relative_to(self.output_dir)): json.loads(path.read_bytes())
            for path in paths
        }

    def false_claims(self) -> list[str]:
        """What markers claim and files do not have. A run may go on meanwhile."""
        markers = self.markers()  # first: files only come
        hours = {hour: self._count(hour) for hour in markers}
        claims = [
            claim for hour, marker in markers.items() for claim in _false_in(hour, marker, hours)
        ]
        landed: dict[Place, int] = defaultdict(int)
        excluded: dict[Place, set[int]] = defaultdict(set)
        for marker in markers.values():
            for place, about in _partitions(marker):
                landed[place] = max(landed[place], about["landed_to"] or 0)
                for first, last in about.get("excluded", ()):
                    excluded[place] |= set(range(first, last + 1))
        if any(landed.values()):
            placed = self._placed()
            for place, end in sorted(landed.items()):
                lost = set(range(end)) - placed[place] - excluded[place]
                if lost:
                    claims.append(f"{place} is said to be landed to {end}: {sorted(lost)[:9]}")
        return claims

    def stale(self) -> list[str]:
        """The hours whose markers say less than their files have; none once a run has ended."""
        stale = []
        for hour, marker in self.markers().items():
            files = sorted((self.output_dir / hour).glob("*.parquet"))
            lines = "".join(f"{path.name} {path.stat().st_size}\n" for path in files)
            rows, letters = self._count(hour)
            counted = sum(map(len, rows.values())), sum(map(len, letters.values()))
            digest = hashlib.sha256(lines.encode()).hexdigest()
            if (digest, *counted) != (marker["sha256"], marker["rows"], marker["dead_letters"]):
                stale.append(f"{hour}: {marker}, and {counted} in {len(files)} files")
        return stale

    def unmarked(self, before: datetime) -> list[str]:
        """The hours that end before a time and have files, but no marker."""
        hours = {
            str(path.parent.relative_to(self.output_dir))
            for path in self.output_dir.glob("dt=*/hour=*/*.parquet")
        }
        return sorted(hour for hour in hours - self.markers().keys() if _end_of(hour) < before)

    def _count(self, hour: str) -> tuple[dict[Place, set[int]], dict[Place, set[int]]]:
        rows: dict[Place, set[int]] = defaultdict(set)
        letters: dict[Place, set[int]] = defaultdict(set)
        columns = ["kafka_topic", "kafka_partition", "kafka_offset"]
        for path in (self.output_dir / hour).glob("*.parquet"):
            for row in pq.read_table(path, columns=columns, partitioning=None).to_pylist():
                place = row["kafka_topic"], str(row["kafka_partition"])
                rows[place].add(row["kafka_offset"])
        for path in (self.dead_letter_dir / hour).glob("*.jsonl"):
            for line in path.read_bytes().splitlines():
                source = json.loads(line)["source"]
                letters[source["topic"], str(source["partition"])].add(source["offset"])
        return rows, letters

    def _placed(self) -> dict[Place, set[int]]:
        placed: dict[Place, set[int]] = defaultdict(set)
        roots = (self.output_dir, self.dead_letter_dir)
        hours = {path.relative_to(root) for root in roots for path in root.glob("dt=*/hour=*")}
        for hour in hours:
            for kind in self._count(str(hour)):
                for place, offsets in kind.items():
                    placed[place] |= offsets
        return placed


def _partitions(marker: dict[str, Any]) -> list[tuple[Place, dict[str, Any]]]:
    return [
        ((topic, partition), about)
        for topic, facts in marker["topics"].items()
        for partition, about in facts["partitions"].items()
    ]


def _false_in(
    hour: str,
    marker: dict[str, Any],
    hours: dict[str, tuple[dict[Place, set[int]], dict[Place, set[int]]]],
) -> list[str]:
    claims = []
    for place, about in _partitions(marker):
        for kind, counted in zip(("rows", "dead_letters"), hours[hour], strict=True):
            said, there = about[kind], counted[place]
            if said["count"] and not (
                len(there) >= said["count"] and {said["first_offset"], said["last_offset"]} <= there
            ):
                claims.append(f"{hour}: {said} {kind} of {place}, there are {len(there)}")
    return claims


def _end_of(hour: str) -> datetime:
    day, clock = (name.partition("=")[2] for name in hour.split("/"))
    start = datetime.strptime(f"{day} {clock}", "%Y-%m-%d %H").replace(tzinfo=timezone.utc)
    return start + timedelta(hours=1)
