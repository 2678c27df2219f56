"""The committer in a process of its own, which kills itself at a point of the protocol.

After its commits it merges all small files, which it does not wait to be many. It keeps few
snapshots, and sweeps without a grace time if no other process writes to the tables.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from sqlalchemy.orm import Session

from beam_pipeline.settings.table import TableJob
from beam_pipeline.tables import (
    committer,
    compaction,
    durable_io,
    landed,
    rewriting,
    table,
    upkeep,
)
from beam_pipeline.tables.committer import Committer, Published
from beam_pipeline.tables.pyiceberg_internals import RewriteOfRows
from beam_pipeline.tables.table import LandedTable

DONE, FAILED = 0, 3
KEPT_SNAPSHOTS = 12


class Point(NamedTuple):
    """A function of the protocol, and when the process dies: before its Nth call, or after it.

    With `within`, calls count from then on that this method of the table was called.
    """

    owner: Any
    name: str
    after: bool
    call: int = 1
    within: str | None = None


POINTS = {
    "before the listing": Point(landed.Landed, "look", after=False),
    "after the listing of letters": Point(landed.Landed, "look", after=True),
    "after the listing of rows": Point(landed.Landed, "look", after=True, call=3),
    "before a link": Point(landed, "_link", after=False),
    "after a link": Point(landed, "_link", after=True),
    "after all links": Point(landed.Landed, "materialized", after=True, call=2),
    "half of a manifest is written": Point(durable_io._DurableStream, "write", after=True),
    "before a manifest is synced": Point(durable_io._DurableStream, "close", after=False),
    "after a manifest": Point(durable_io._DurableStream, "close", after=True),
    "after a manifest list": Point(durable_io._DurableStream, "close", after=True, call=2),
    "before the metadata": Point(SqlCatalog, "_write_metadata", after=False),
    "after the metadata": Point(SqlCatalog, "_write_metadata", after=True),
    "before the swap": Point(Session, "commit", after=False),
    "after the swap, the answer is lost": Point(Session, "commit", after=True),
    "after the last swap": Point(SqlCatalog, "commit_table", after=True, call=2),
    "before the hint": Point(table, "write_hint", after=False),
    "between letters and rows": Point(Published, "publish", after=True),
    "after the last commit": Point(Published, "publish", after=True, call=2),
}

MERGE_POINTS = {
    "before a merge": Point(compaction, "rewrite", after=False),
    "a merged file has no footer yet": Point(rewriting, "_footer", after=False),
    "after a merged file": Point(LandedTable, "replace", after=False),
    "after the manifests of a merge": Point(RewriteOfRows, "commit", after=True),
    "after a merge": Point(LandedTable, "replace", after=True),
    "after all merges": Point(Committer, "_note_merge", after=True),
    "before an unused file is removed": Point(upkeep, "_remove", after=False),
    "after an unused file is removed": Point(upkeep, "_remove", after=True),
}
SQLITE_MERGE_POINTS = {
    **MERGE_POINTS,
    "before the swap of a merge": Point(Session, "commit", after=False, within="replace"),
    "after the swap of a merge, the answer is lost": Point(
        Session, "commit", after=True, within="replace"
    ),
}

REST_POINTS = {
    "before the request of a merge": Point(
        RestCatalog, "commit_table", after=False, within="replace"
    ),
    "after the request of a merge, the answer is lost": Point(
        RestCatalog, "commit_table", after=True, within="replace"
    ),
    **MERGE_POINTS,
    "before the request": Point(RestCatalog, "commit_table", after=False, call=2),
    "after the request, the answer is lost": Point(RestCatalog, "commit_table", after=True, call=2),
    **{
        name: POINTS[name]
        for name in (
            "after the listing of rows",
            "after a link",
            "after all links",
            "between letters and rows",
            "after the last commit",
        )
    },
}


def commit(job_text: bytes, point: str | None, is_alone: bool) -> None:
    """Make a round of a new committer, and merge small files; runs in a child."""
    logging.disable(logging.CRITICAL)
    pa.set_cpu_count(1)
    _merge_and_expire_soon()
    if is_alone:
        LandedTable.sweep.__defaults__ = (-60.0,)
    if point is not None:
        _die_at({**POINTS, **SQLITE_MERGE_POINTS, **REST_POINTS}[point])
    process = Committer(msgspec.json.decode(job_text, type=TableJob))
    is_done = process.round()
    if not is_done:
        print(process.progress.failure, file=sys.stderr, flush=True)
    for _ in process.compaction():
        pass
    os._exit(DONE if is_done else FAILED)


def _merge_and_expire_soon() -> None:
    vars(committer)["automatic_rules"] = _merge_all
    _, kept_seconds = table.expired_snapshots.__defaults__ or (None, None)
    table.expired_snapshots.__defaults__ = (KEPT_SNAPSHOTS, kept_seconds)


def _merge_all(now: datetime | None = None) -> compaction.Rules:
    return compaction.Rules(now or datetime.now(timezone.utc))


def _die_at(point: Point) -> None:
    original: Callable[..., Any] = getattr(point.owner, point.name)
    calls = 0
    is_armed = point.within is None

    if point.within is not None:
        method = getattr(LandedTable, point.within)

        def arming(*args: Any, **options: Any) -> Any:
            nonlocal is_armed
            is_armed = True
            return method(*args, **options)

        setattr(LandedTable, point.within, arming)

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += is_armed
        if is_armed and calls == point.call and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if is_armed and calls == point.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    is_static = isinstance(inspect.getattr_static(point.owner, point.name), staticmethod)
    setattr(point.owner, point.name, staticmethod(dying) if is_static else dying)
