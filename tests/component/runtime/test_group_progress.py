"""Commits of what is landed, for those who watch the consumer group."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event

import pytest
from fake_engine import ORDERS

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.admin import commit_group_offsets
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.runtime import group_progress
from beam_pipeline.runtime.group_progress import GroupProgress


class Group:
    """Takes commits; one waits until it may go on, and fails if that is wanted."""

    def __init__(self) -> None:
        self.commits: list[int] = []
        self.may_go_on = Event()
        self.may_go_on.set()
        self.failure = ""

    def commit(self, landed_to: Mapping[TopicPartition, int]) -> None:
        assert self.may_go_on.wait(60)
        if self.failure:
            raise EnvironmentFailure(self.failure)
        self.commits.append(landed_to[ORDERS])


@pytest.fixture
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_progress, "INTERVAL_SECONDS", 0.0)


def test_what_is_landed_is_committed_once_a_minute() -> None:
    group = Group()
    progress = GroupProgress(group.commit)
    assert progress.offer({}) == []
    progress.offer({ORDERS: 5})
    progress.offer({ORDERS: 6})
    progress.settle()
    progress.offer({ORDERS: 7})
    progress.settle()
    assert group.commits == [5]


@pytest.mark.usefixtures("always_due")
def test_a_commit_that_takes_long_holds_up_no_step_of_the_run() -> None:
    group = Group()
    progress = GroupProgress(group.commit)
    group.may_go_on.clear()
    assert progress.offer({ORDERS: 5}) == progress.offer({ORDERS: 6}) == []
    group.may_go_on.set()
    progress.settle()
    progress.offer({ORDERS: 7})
    progress.settle()
    assert group.commits == [5, 7]


def test_the_end_waits_for_the_last_commit_but_not_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = Group()
    progress = GroupProgress(group.commit)
    progress.offer({ORDERS: 5})
    assert progress.finish({ORDERS: 8}) == []
    assert group.commits == [5, 8]

    monkeypatch.setattr(group_progress, "LAST_SECONDS", 0.0)
    group.may_go_on.clear()
    assert progress.finish({ORDERS: 9}) == []
    assert group.commits == [5, 8]
    group.may_go_on.set()
    progress.settle()


@pytest.mark.usefixtures("always_due")
def test_a_failure_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    progress = GroupProgress(group.commit)

    def told(failure: str) -> list[str]:
        group.failure = failure
        return [*progress.offer({ORDERS: 5}), *progress.finish({})]

    assert told("refused") == ["progress is not committed, which holds up nothing: refused"]
    assert told("refused") == []
    assert len(told("away")) == 1
    monkeypatch.setattr(group_progress, "TELL_SECONDS", 0.0)
    assert len(told("away")) == 1


def test_a_broker_that_is_away_fails_the_commit_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("beam_pipeline.kafka.admin.COORDINATOR_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(EnvironmentFailure, match="offsets of consumer group g"):
        commit_group_offsets(KafkaConnection("127.0.0.1:9"), "g", {ORDERS: 5})
