"""The committer in a process of its own, which kills itself at a point of the protocol."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.catalog.sql import SqlCatalog
from sqlalchemy.orm import Session

from beam_pipeline.settings.table import TableJob
from beam_pipeline.tables import durable_io, landed, table
from beam_pipeline.tables.committer import Committer, Published

DONE, FAILED = 0, 3


class Point(NamedTuple):
    """A function of the protocol, and when the process dies: before its Nth call, or after it."""

    owner: Any
    name: str
    after: bool
    call: int = 1


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

REST_POINTS = {
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


def commit(job_text: bytes, point: str | None) -> None:
    """Make a round of a new committer; runs in a child."""
    logging.disable(logging.CRITICAL)
    pa.set_cpu_count(1)
    if point is not None:
        _die_at({**POINTS, **REST_POINTS}[point])
    committer = Committer(msgspec.json.decode(job_text, type=TableJob))
    is_done = committer.round()
    if not is_done:
        print(committer.progress.failure, file=sys.stderr, flush=True)
    os._exit(DONE if is_done else FAILED)


def _die_at(point: Point) -> None:
    original: Callable[..., Any] = getattr(point.owner, point.name)
    calls = 0

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == point.call and not point.after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **options)
        if calls == point.call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    is_static = isinstance(inspect.getattr_static(point.owner, point.name), staticmethod)
    setattr(point.owner, point.name, staticmethod(dying) if is_static else dying)
