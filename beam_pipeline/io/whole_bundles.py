"""Keeps bundles of stateful stages in one piece, because Prism loses state when it splits them.

Prism 2.73 asks to split every bundle that shows no progress for a fifth of a second, those of
stateful stages too. The keys of the part that is split off then run in a second bundle. The first
bundle still holds a copy of their state, and at its end commits that copy over what the second one
has added: parts vanish from the state, and their rows are in no file until the next start.

The Fn API (ProcessBundleSplitRequest) lets an SDK decline a split by an empty answer. Beam's Python
SDK has no setting for it, so this module replaces `BundleProcessor.try_split` in the worker
process. `--experiments=prism_disable_sdf_split` is no alternative: KafkaIO's read would hold its
first bundle open as long as records come.
"""

from __future__ import annotations

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.worker.bundle_processor import BundleProcessor

_try_split = BundleProcessor.try_split


def keep_stateful_bundles_whole() -> None:
    """Decline to split bundles with timers, in this process and for good.

    Call it in `setup` of a stateful DoFn. It holds for all pipelines that this process works for;
    to decline is always allowed and costs at most an even load.
    """
    setattr(BundleProcessor, "try_split", _decline_if_stateful)  # noqa: B010  mypy refuses a method


def _decline_if_stateful(
    self: BundleProcessor, request: beam_fn_api_pb2.ProcessBundleSplitRequest
) -> beam_fn_api_pb2.ProcessBundleSplitResponse:
    if self.timers_info:
        return beam_fn_api_pb2.ProcessBundleSplitResponse()
    return _try_split(self, request)
