"""What a directory holds, compared with what a start would write there.

`<output_dir>/_ledger/columns.json` has the columns of all runs that landed rows, and the topics and
windows of the last one. Files of older versions have no such note: their Arrow schemas tell the
types, and not which texts are JSON texts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from beam_pipeline.errors import EnvironmentFailure, UsageError
from beam_pipeline.files.footer import read_metadata
from beam_pipeline.files.tree import newest_files
from beam_pipeline.schemas import Contract
from beam_pipeline.schemas.dataset import (
    ReadType,
    conflicts,
    differences,
    file_columns,
    read_type,
)
from beam_pipeline.schemas.references import schemas_in
from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.storage.documents import write_document
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

COLUMNS_NOTE = Path("_ledger", "columns.json")
_VERSION = 1
_FILES_LOOKED_AT = 4
_NAMES_TOLD = 5


@dataclass(frozen=True)
class HeldColumns:
    """What a directory holds.

    Attributes:
      columns: the columns of its files by name.
      knows_encodings: whether `columns` tell JSON text from plain text.
      settings: those of the last run that landed rows, see `_settings_of`; empty if not known.
    """

    columns: Mapping[str, ReadType]
    knows_encodings: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


def held_columns(output_dir: StoredPath) -> HeldColumns | None:
    """Return what the files of a directory hold; None if there are no files.

    Raises:
      EnvironmentFailure: the note, a directory or a file can't be read.
    """
    files = list(islice(newest_files(output_dir, ".parquet"), _FILES_LOOKED_AT))
    if not files:
        return None
    note = _read_note(output_dir / COLUMNS_NOTE)
    if note is not None:
        return note
    columns: dict[str, ReadType] = {}
    for path in reversed(files):
        try:
            columns.update(
                {
                    column.name: read_type(column.type, None)
                    for column in read_metadata(path).schema.to_arrow_schema()
                }
            )
        except FileNotFoundError:  # superseded or deleted since it was listed
            continue
        except StorageAwayError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise EnvironmentFailure(
                f"{path} can't be read ({' '.join(str(error).split())}); move it away, its records "
                "are then read again"
            ) from None
    return HeldColumns(columns, knows_encodings=False)


def note_columns(
    output_dir: StoredPath, columns: Mapping[str, ReadType], settings: PipelineSettings
) -> None:
    """Note the columns that a run lands beside those that the directory has.

    Raises:
      EnvironmentFailure: the note can't be read.
      OSError: it can't be written.
    """
    path = output_dir / COLUMNS_NOTE
    held = _read_note(path) or HeldColumns({})
    folded = {name.lower() for name in columns}
    others = {name: kind for name, kind in held.columns.items() if name.lower() not in folded}
    document = {
        "version": _VERSION,
        "columns": {**others, **columns},
        "settings": _settings_of(settings),
    }
    content = json.dumps(document, indent=1).encode()
    if _content_of(path) != content:
        write_document(path, content)


def _settings_of(settings: PipelineSettings) -> dict[str, Any]:
    """Return the settings that tell what is in the files, and by when it should be there."""
    return {
        "input_topics": sorted(settings.input_topics),
        "window_seconds": settings.windowing.window_seconds,
        "watermark_delay_seconds": settings.windowing.watermark_delay_seconds,
        "max_out_of_order_seconds": settings.max_out_of_order_seconds,
        "window_by": settings.window_by,
        "max_event_skew_seconds": settings.max_event_skew_seconds,
        "early_pane_seconds": settings.timing.early_pane_seconds,
        "late_pane_seconds": settings.timing.late_pane_seconds,
    }


def _content_of(path: StoredPath) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _read_note(path: StoredPath) -> HeldColumns | None:
    try:
        content = _content_of(path)
        if content is None:
            return None
        document = json.loads(content)
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        return HeldColumns(dict(document["columns"]), settings=dict(document["settings"]))
    except StorageAwayError:
        raise
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise EnvironmentFailure(
            f"note of columns {path} can't be read ({error}); remove it, and the columns are taken "
            "from the newest files"
        ) from None


def columns_to_land(settings: PipelineSettings, contract: Contract) -> dict[str, ReadType]:
    """Return the columns of the files that a run with these settings writes.

    Where something changes or adds columns, a child process finds them: it loads Beam and the
    user's code, and takes two seconds.

    Raises:
      UsageError: an annotation or a transform is not usable.
      EnvironmentFailure: the child process failed.
    """
    annotated = "x-enrich" in contract.document or any(
        "x-decimal" in part for part in schemas_in(contract.plain_document)
    )
    if not annotated and not settings.transforms:
        return file_columns(contract, settings.kafka_columns)
    child = subprocess.run(
        [sys.executable, "-m", "beam_pipeline.landed_columns"],
        input=msgspec.json.encode(settings),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if child.returncode == 0:
        # A user's transform may print when it is loaded.
        return dict(json.loads(child.stdout.splitlines()[-1]))
    lines = child.stderr.decode(errors="replace").splitlines() or ["no reason given"]
    if child.returncode == UsageError.exit_code:
        raise UsageError(lines[-1])
    raise EnvironmentFailure(f"the columns of the files can't be found: {lines[-1]}")


def check_columns(settings: PipelineSettings) -> list[str]:
    """Compare what a start would write with what the directory holds; return notices.

    Raises:
      UsageError: a reader of the directory would find a column in two forms.
      EnvironmentFailure: what the directory holds can't be read.
    """
    output_dir = settings.output_path
    held = held_columns(output_dir)
    if held is None:
        return []
    columns = columns_to_land(settings, settings.contract())
    reasons = list(conflicts(held.columns, columns, knows_encodings=held.knows_encodings))
    if reasons and not settings.allow_schema_change:
        raise UsageError(
            f"--schema={settings.schema}: does not fit the files in --output_dir={output_dir}: "
            f"{_listed(reasons, '; ')}. Readers would find two forms in one column; give a new "
            "--output_dir (and --dead_letter_dir), or --allow_schema_change to write there anyway"
        )
    return [*_notices_of_columns(held, columns, reasons), *_notices_of_settings(held, settings)]


def _notices_of_columns(
    held: HeldColumns, columns: Mapping[str, ReadType], reasons: list[str]
) -> Iterator[str]:
    if reasons:
        yield f"changed, by --allow_schema_change: {_listed(reasons, '; ')}"
    added, gone = differences(held.columns, columns)
    if added:
        yield f"columns that the files there do not have: {_listed(added)}"
    if gone:
        yield f"columns of the files there that new files will not have: {_listed(gone)}"


def _notices_of_settings(held: HeldColumns, settings: PipelineSettings) -> Iterator[str]:
    before, now = held.settings, _settings_of(settings)
    if "input_topics" in before and settings.input_topics:
        topics, new_topics = set(before["input_topics"]), set(now["input_topics"])
        if new_topics - topics:
            yield f"topics that are new in this directory: {_listed(sorted(new_topics - topics))}"
        if topics - new_topics:
            yield f"topics that are no longer read: {_listed(sorted(topics - new_topics))}"
    for name in ("window_seconds", "window_by"):
        if name in before and before[name] != now[name]:
            yield f"--{name} was {before[name]} and is {now[name]}"


def _listed(texts: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(texts) - _NAMES_TOLD} more" if len(texts) > _NAMES_TOLD else ""
    return separator.join(texts[:_NAMES_TOLD]) + more
