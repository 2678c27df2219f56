"""How much the files of a run hold, and when the last one came."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from beam_pipeline.files.ledger import FileContent
from beam_pipeline.files.names import PARQUET_SUFFIX, OutputFile
from beam_pipeline.storage.paths import StoredPath

KINDS = ("rows", "dead_letters")


@dataclass
class LandedTotals:
    """Sums over the files of a run, by kind: `rows` or `dead_letters`.

    Attributes:
      files, records, size_bytes: the sums.
      last_file_s: when the last new file was seen, in seconds since 1970; None before the first.
    """

    files: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    size_bytes: Counter[str] = field(default_factory=Counter)
    last_file_s: float | None = None
    _epochs: set[str] = field(default_factory=set)
    _known: Collection[str] = ()

    def begin(self, epoch: str, known: Collection[str]) -> None:
        """Begin an epoch of the run; `known` are the names of the files that were counted."""
        self._epochs.add(epoch)
        self._known = known

    def note(self, path: StoredPath, content: FileContent) -> None:
        """Add a file that the ledger counts, if the run wrote it and it was not counted before."""
        file = OutputFile.parse(path)
        if file is None or file.epoch not in self._epochs or path.name in self._known:
            return
        kind = KINDS[path.suffix != PARQUET_SUFFIX]
        self.files[kind] += 1
        self.records[kind] += content.covered.count
        with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
            self.size_bytes[kind] += path.stat().st_size
        self.last_file_s = time.time()

    def copy(self) -> LandedTotals:
        """Return the sums of now, which later files don't change."""
        return replace(
            self,
            files=self.files.copy(),
            records=self.records.copy(),
            size_bytes=self.size_bytes.copy(),
        )
