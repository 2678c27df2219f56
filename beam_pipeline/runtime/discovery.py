"""Finds the topics that a run reads, and notices when topics or partitions come and go."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from beam_pipeline.errors import EnvironmentFailure, PipelineError, UsageError
from beam_pipeline.kafka.admin import require_cluster, topic_names
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.offset_sets import TopicPartition
from beam_pipeline.settings.config import PipelineSettings
from beam_pipeline.terminal import plural

NamesOf = Callable[[], Sequence[str]]
"""Returns the names of all topics of a cluster; raises EnvironmentFailure if it can't."""

Admit = Callable[[PipelineSettings, str], None]
"""Prepares to read a topic that has come while the run goes on; raises PipelineError if it can't
be read."""

_NAMES_TOLD = 5


def matching_topics(names: Sequence[str], pattern: str, dead_letter_suffix: str) -> list[str]:
    """Return the topics that a pattern matches as a whole, sorted.

    Kafka's own topics and those of dead letters are left out.

    >>> matching_topics(["orders.us", "orders.eu", "orders.eu.dlq", "my-orders.eu"],
    ...     "orders[.].*", ".dlq")
    ['orders.eu', 'orders.us']
    """
    return sorted(
        name
        for name in names
        if re.fullmatch(pattern, name)
        and not name.startswith("__")
        and not name.endswith(dead_letter_suffix)
    )


def with_matching_topics(settings: PipelineSettings) -> PipelineSettings:
    """Return the settings with the topics that `--input_topic_pattern` matches now.

    Raises:
      UsageError: no topic matches.
      EnvironmentFailure: the cluster does not answer, or refuses.
    """
    pattern = settings.input_topic_pattern
    if pattern is None:
        return settings
    connection = settings.connection()
    require_cluster(connection)
    topics = topics_at(connection, pattern, settings.dead_letter_topic_suffix)
    return replace(settings, input_topics=tuple(topics))


def topics_at(connection: KafkaConnection, pattern: str, dead_letter_suffix: str) -> list[str]:
    """Return the topics of a cluster that a pattern matches now, sorted.

    Raises:
      UsageError: no topic matches.
      EnvironmentFailure: the cluster does not answer, or refuses.
    """
    names = topic_names(connection)
    topics = matching_topics(names, pattern, dead_letter_suffix)
    if not topics:
        raise UsageError(
            f"--input_topic_pattern={pattern}: matches the whole name of no topic on "
            f"{connection.bootstrap_servers}, which has {_listed(names)}"
        )
    return topics


class Discovery:
    """The topics of a run, over all its epochs.

    An epoch reads the partitions that there are at its start. When one has come, or a topic has
    come or gone, another epoch is due. A topic that was deleted is not read again by the same run,
    since one of the same name would be another topic.
    """

    def __init__(
        self, settings: PipelineSettings, interval_seconds: float, names: NamesOf, admit: Admit
    ) -> None:
        """Begin with the topics of the settings.

        Args:
          settings: those of the run.
          interval_seconds: how often to look; 0 never.
          names: see `NamesOf`.
          admit: see `Admit`.
        """
        self.settings = settings
        self.notices: list[str] = []
        self._interval_seconds = interval_seconds
        self._names = names
        self._admit = admit
        self._deleted: set[str] = set()
        self._refused: dict[str, str] = {}
        self._next_look = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the run looks for changes."""
        return self._interval_seconds > 0

    def begin_epoch(self, now: float) -> None:
        """Take the topics that there are now into the settings.

        Args:
          now: seconds of a monotonic clock.

        Raises:
          EnvironmentFailure: the cluster did not answer, or all topics were deleted.
        """
        self._next_look = now + self._interval_seconds
        topics = self._readable()
        before = self.settings.input_topics
        if gone := [topic for topic in before if topic not in topics]:
            self._deleted.update(gone)
            self.notices.append(
                f"{_listed(gone)} deleted; what was not in files is lost. The other topics are "
                "read on"
            )
        if not topics:
            raise EnvironmentFailure(
                f"{_listed(before)} deleted while the run read it; nothing is left to read"
            )
        self.settings = replace(self.settings, input_topics=topics)

    def change(self, added: Sequence[TopicPartition], now: float) -> str | None:
        """Look whether another epoch is due; return why.

        Args:
          added: the partitions that this epoch does not read.
          now: seconds of a monotonic clock.

        Raises:
          EnvironmentFailure: the cluster did not answer.
        """
        if not self.is_on or now < self._next_look:
            return None
        self._next_look = now + self._interval_seconds
        topics, before = self._readable(), self.settings.input_topics
        come = [topic for topic in topics if topic not in before]
        gone = [topic for topic in before if topic not in topics]
        reasons = [
            *([f"new: {_listed(come)}"] if come else []),
            *([f"deleted: {_listed(gone)}"] if gone else []),
            *([f"new: {_listed([str(key) for key in added])}"] if added else []),
        ]
        return "; ".join(reasons) or None

    def _readable(self) -> tuple[str, ...]:
        """Return the topics that exist and can be read, in the order of the settings, new last."""
        settings, names = self.settings, set(self._names()) - self._deleted
        topics = [topic for topic in settings.input_topics if topic in names]
        pattern = settings.input_topic_pattern
        if pattern is not None and self.is_on:
            suffix = settings.dead_letter_topic_suffix
            for topic in matching_topics(sorted(names), pattern, suffix):
                if topic not in topics and self._is_admitted(topic):
                    topics.append(topic)
        return tuple(topics)

    def _is_admitted(self, topic: str) -> bool:
        """Prepare to read a new topic; tell why it can't be read, each reason once."""
        try:
            self._admit(self.settings, topic)
        except PipelineError as error:
            if self._refused.get(topic) != str(error):
                self._refused[topic] = str(error)
                self.notices.append(f"{topic} is not read: {error}")
            return False
        return True


def names_of(connection: KafkaConnection) -> NamesOf:
    """Return a function that asks a cluster for the names of its topics."""
    return lambda: topic_names(connection)


def _listed(names: Sequence[str]) -> str:
    if len(names) > _NAMES_TOLD:
        return f"{', '.join(names[:_NAMES_TOLD])} and {plural(len(names) - _NAMES_TOLD, 'other')}"
    return ", ".join(names) or "none"
