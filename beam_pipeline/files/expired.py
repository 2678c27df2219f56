"""The note of offsets that expired from the log: `<output_dir>/_ledger/expired.json`.

An offset below the start of the log that is in no file is one of three things: a record that
expired before it was read, an offset that never had a record (compaction, transaction markers,
aborted records), or a record whose file was deleted. The log can't tell them apart any more. The
note keeps what runs saw while it could be seen, and which losses the user has accepted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beam_pipeline.covered_offsets import CoveredOffsets
from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.storage.documents import write_document
from beam_pipeline.storage.paths import StoredPath
from beam_pipeline.storage.protocol import StorageAwayError

NOTE = Path("_ledger", "expired.json")
_VERSION = 1


@dataclass
class ExpiredNote:
    """What is known of offsets below the start of the log.

    Attributes:
        unread: offsets that expired before they were read. At most these were records.
        accepted: those of which the user has said `--accept_expired`.
        without_record: offsets that a reader passed while the log had them, and got no record.
    """

    unread: CoveredOffsets = field(default_factory=CoveredOffsets)
    accepted: CoveredOffsets = field(default_factory=CoveredOffsets)
    without_record: CoveredOffsets = field(default_factory=CoveredOffsets)

    def to_json(self) -> dict[str, Any]:
        """Return JSON data; each set is a list of `CoveredOffsets.to_json`."""
        return {
            "version": _VERSION,
            "unread": self.unread.to_json(),
            "accepted": self.accepted.to_json(),
            "without_record": self.without_record.to_json(),
        }

    def save(self, output_dir: StoredPath) -> None:
        """Write the note, atomically and durably."""
        write_document(output_dir / NOTE, json.dumps(self.to_json()).encode())


def load_expired_note(output_dir: StoredPath) -> ExpiredNote:
    """Return the note of an output directory; an empty one where there is none.

    Raises:
        EnvironmentFailure: the note can't be read.
    """
    path = output_dir / NOTE
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']}")
        return ExpiredNote(
            *(
                CoveredOffsets.from_json(document[name])
                for name in ("unread", "accepted", "without_record")
            )
        )
    except FileNotFoundError:
        return ExpiredNote()
    except StorageAwayError:
        raise
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise EnvironmentFailure(
            f"note of expired records {path} can't be read ({error}); remove it, and expired "
            "records that were accepted are reported again"
        ) from None
