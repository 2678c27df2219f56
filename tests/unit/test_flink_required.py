"""Flink's tests fail where CI runs if Flink can't be fetched, and are skipped elsewhere."""

from __future__ import annotations

from typing import NoReturn

import flink_clusters
import pytest
from _pytest.outcomes import Failed, Skipped

from beam_pipeline.errors import EnvironmentFailure


@pytest.mark.parametrize(("ci", "outcome"), [("true", Failed), ("", Skipped)])
def test_without_flink(
    ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*, with_cluster: bool) -> NoReturn:
        raise EnvironmentFailure("no network")

    monkeypatch.setattr(flink_clusters, "find_flink_tools", no_network)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="Flink can't be fetched: no network"):
        flink_clusters.require_flink()
