"""Keeps a bundle with state in one piece, whatever the runner asks for.

Prism 2.73 offers every bundle that shows no progress for a fifth of a second to be split, those of
stateful stages too. The keys of the part that is split off then run in a second bundle, while the
first still holds a copy of their state, and commits that copy over whatever the second has added:
parts vanish from the state, and their rows from the files, until the next start. A split is an
offer (Fn API, ProcessBundleSplitRequest): an SDK may decline it with an empty answer, and this one
does so for stateful stages. `--experiments=prism_disable_sdf_split` is no way out: KafkaIO's read
would then hold its first bundle open for as long as records come.
"""

from __future__ import annotations

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker.bundle_processor import BundleProcessor

_try_split = BundleProcessor.try_split


def keep_stateful_bundles_whole() -> None:
    """For all bundles of this worker process; call it in the `setup` of a stateful DoFn."""
    setattr(BundleProcessor, "try_split", _decline_if_stateful)  # noqa: B010  mypy refuses a method


def _decline_if_stateful(
    self: BundleProcessor, request: beam_fn_api_pb2.ProcessBundleSplitRequest
) -> beam_fn_api_pb2.ProcessBundleSplitResponse:
    if self.timers_info:
        return beam_fn_api_pb2.ProcessBundleSplitResponse()
    return _try_split(self, request)
