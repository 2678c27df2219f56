"""What epochs leave behind besides files: parts, and uploads that were begun."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from beam_pipeline.files.epochs import abort_uploads
from beam_pipeline.files.parts import Parts, parts_below
from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.storage.paths import ObjectPath, StoredPath
from beam_pipeline.storage.urls import absolute


class Leftovers:
    """The parts and uploads below the output and the dead-letter directory.

    Each method raises `StorageAwayError` where an object store does not answer.

    Args:
        roots: the output and the dead-letter directory, or prefixes.
        settings: where parts are.
    """

    def __init__(self, roots: Sequence[StoredPath], settings: PipelineSettings) -> None:
        self._roots = roots
        self._settings = settings

    def sweep(self, epoch: str, retention_seconds: float) -> None:
        """Remove the parts of an epoch whose rows have been in files for longer."""
        for parts in self._parts_of(epoch):
            parts.sweep(retention_seconds)

    def sweep_other_epochs(self, live_epoch: str) -> None:
        """Remove the parts of all epochs but one."""
        for parts in self._parts_of(live_epoch):
            parts.sweep_other_epochs()

    def abort_uploads(self, epochs: Collection[str]) -> None:
        """End what workers of some epochs have begun to upload; a directory has no uploads."""
        for root in self._roots:
            if isinstance(root, ObjectPath):
                abort_uploads(root, epochs)

    def _parts_of(self, epoch: str) -> Iterator[Parts]:
        settings = self._settings
        for root in (settings.output_dir, settings.dead_letter_dir):
            yield parts_below(absolute(root), epoch, settings.storage, settings.parts_dir)
