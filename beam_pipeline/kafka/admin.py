"""Admin client: topics, configs, offsets, consumer groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import confluent_kafka
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
)
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.certificate import certificate_problem
from beam_pipeline.kafka.connection import KafkaConnection, librdkafka_logger
from beam_pipeline.offset_sets import TopicPartition

REQUEST_TIMEOUT_SECONDS = 15.0
COORDINATOR_TIMEOUT_SECONDS = 5.0
SETTLING_TIMEOUT_SECONDS = 60.0

TIMESTAMP_TYPE, LOG_APPEND_TIME = "message.timestamp.type", "LogAppendTime"
"""The setting of a topic that says who stamps its records, and its value for the brokers."""

_RETRY_SECONDS = 0.1
_ANSWER_SECONDS = 2.0

# Errors that pass: a partition has no leader right after its topic was created or its broker
# started, and a group has no coordinator before its first client asked for one.
_SETTLING = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError._TIMED_OUT,
    }
)

# What a broker says when the offsets of a group with members are set from outside.
_GROUP_IN_USE = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.NON_EMPTY_GROUP,
        KafkaError.GROUP_SUBSCRIBED_TO_TOPIC,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError.FENCED_MEMBER_EPOCH,
    }
)

_MAY_NOT_COMMIT = frozenset(
    {KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED}
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to create.

    Attributes:
        name: the topic.
        partitions: the number of partitions.
        config: topic settings, for example `{"message.timestamp.type": "LogAppendTime"}`.
        replication_factor: -1 is the broker's default.
    """

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)
    replication_factor: int = -1


class ClusterRefusedError(EnvironmentFailure):
    """A broker answers, and refuses the login or shows a certificate that is not trusted."""


def require_cluster(connection: KafkaConnection, timeout_seconds: float = 10.0) -> None:
    """Check that a broker answers.

    Raises:
        ClusterRefusedError: a broker refuses the login, or its certificate is not trusted.
        EnvironmentFailure: no broker answers. Messages have the flag and the reason, and no
            setting's value.
    """
    errors: list[KafkaError] = []
    admin = _admin(connection, on_error=errors.append)
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = deadline - time.monotonic()
        try:
            admin.list_topics(timeout=max(0.1, min(left, _ANSWER_SECONDS)))
            return
        except KafkaException as error:
            admin.poll(0)  # calls `errors.append` for the errors so far
            if refusal := _refusal(connection, errors):
                raise ClusterRefusedError(
                    f"--kafka_bootstrap_servers={connection.bootstrap_servers}: {refusal}"
                ) from None
            if left <= _ANSWER_SECONDS:
                reasons = [e for e in errors if e.code() != KafkaError._ALL_BROKERS_DOWN]
                reason = (reasons or [error.args[0]])[-1].str()
                break
    raise EnvironmentFailure(
        f"--kafka_bootstrap_servers={connection.bootstrap_servers}: no broker answered within "
        f"{timeout_seconds:g} s ({reason}); check the address, and --kafka_config if the "
        "cluster asks for a login or TLS"
    )


def _refusal(connection: KafkaConnection, errors: Sequence[KafkaError]) -> str | None:
    """Return why a broker that answers refuses, with the remedy; None where that is not known."""
    codes = {error.code() for error in errors}
    if KafkaError._AUTHENTICATION in codes:
        refused = [e.str() for e in errors if e.code() == KafkaError._AUTHENTICATION][-1]
        # BROKER/bootstrap: SASL authentication error: REASON (after 3ms in state AUTH_REQ)
        reason = refused.partition(": ")[2].rpartition(" (after ")[0] or refused
        return (
            f"the broker refuses the login ({reason}); check sasl.username, sasl.password and "
            "sasl.mechanism in --kafka_config"
        )
    if KafkaError._SSL in codes and (problem := certificate_problem(connection)):
        return f"the broker's certificate {problem}"
    return None


def cluster_reachable(connection: KafkaConnection, timeout_seconds: float = 10.0) -> bool:
    """Return whether a broker answers within the time, even if it refuses the login."""
    try:
        require_cluster(connection, timeout_seconds)
    except ClusterRefusedError:
        return True  # waiting does not help
    except EnvironmentFailure:
        return False
    return True


def create_topics(
    connection: KafkaConnection, topics: Sequence[TopicSpec], *, exist_ok: bool = False
) -> None:
    """Create topics and wait until every broker knows them.

    Args:
        connection: the cluster.
        topics: the topics.
        exist_ok: leave a topic that exists as it is.

    Raises:
        EnvironmentFailure: the cluster refused, or a topic exists and `exist_ok` is False.
    """
    admin = _admin(connection)
    new = [
        NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=topic.replication_factor,
            config=dict(topic.config),
        )
        for topic in topics
    ]
    futures = admin.create_topics(new, request_timeout=REQUEST_TIMEOUT_SECONDS)
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            exists = error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
            if not (exists and exist_ok):
                raise _failure(f"topic {name} can't be created", error) from None


def topic_config(connection: KafkaConnection, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the effective settings of each topic, broker defaults included.

    Raises:
        EnvironmentFailure: a topic is missing, or the cluster refused.
    """
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    admin = _admin(connection)
    futures = admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_SECONDS)
    return {
        resource.name: {
            key: entry.value
            for key, entry in _result(f"settings of topic {resource.name}", future).items()
            if entry.value is not None
        }
        for resource, future in futures.items()
    }


def create_time_topics(connection: KafkaConnection, names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the topics whose records are stamped by their producers.

    Raises:
        EnvironmentFailure: a topic is missing, or the cluster refused.
    """
    configs = topic_config(connection, names)
    return tuple(
        name for name, config in configs.items() if config.get(TIMESTAMP_TYPE) != LOG_APPEND_TIME
    )


def topic_names(connection: KafkaConnection, timeout_seconds: float = 2.0) -> list[str]:
    """Return the names of all topics that the client may see; asks once.

    Raises:
        EnvironmentFailure: the cluster did not answer in time, or refused.
    """
    try:
        return sorted(_admin(connection).list_topics(timeout=timeout_seconds).topics)
    except KafkaException as error:
        raise _failure("names of topics", error) from None


def partition_counts(connection: KafkaConnection, names: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of each topic; leave out topics that don't exist.

    Raises:
        EnvironmentFailure: the cluster refused.
    """
    return {name: len(topic.partitions) for name, topic in _describe(connection, names).items()}


@dataclass(frozen=True, slots=True)
class TopicAccess:
    """Whether a client may write a topic, and its brokers can take it.

    Attributes:
        may_write: None where the cluster does not say.
        replicas: how many replicas the partition with the fewest has.
    """

    may_write: bool | None
    replicas: int


def topic_access(connection: KafkaConnection, names: Iterable[str]) -> dict[str, TopicAccess]:
    """Return what this client may do with each topic; leave out topics that don't exist.

    Raises:
        EnvironmentFailure: the cluster refused.
    """
    access = {}
    for name, topic in _describe(connection, names, with_operations=True).items():
        operations = topic.authorized_operations
        access[name] = TopicAccess(
            may_write=AclOperation.WRITE in operations if operations else None,
            replicas=min(len(partition.replicas) for partition in topic.partitions),
        )
    return access


def topic_ids(connection: KafkaConnection, names: Iterable[str]) -> dict[str, str]:
    """Return the id of each topic; leave out topics that don't exist.

    A topic that was deleted and created again has another id.

    Raises:
        EnvironmentFailure: the cluster refused.
    """
    return {name: str(topic.topic_id) for name, topic in _describe(connection, names).items()}


def watermarks(connection: KafkaConnection, topic: str) -> dict[int, tuple[int, int]]:
    """Return the first offset and the end offset of each partition of a topic.

    Raises:
        EnvironmentFailure: the topic is missing, or the cluster refused.
    """
    partitions = partition_counts(connection, [topic]).get(topic)
    if partitions is None:
        raise EnvironmentFailure(f"topic {topic} doesn't exist on {connection.bootstrap_servers}")
    admin = _admin(connection)
    low = _offsets(admin, topic, partitions, OffsetSpec.earliest())
    high = _offsets(admin, topic, partitions, OffsetSpec.latest())
    return {partition: (low[partition], high[partition]) for partition in range(partitions)}


class LogBounds(NamedTuple):
    """The first offset of each partition, and the one after its last record."""

    starts: dict[TopicPartition, int]
    ends: dict[TopicPartition, int]


def log_bounds(
    connection: KafkaConnection, topics: Iterable[str], timeout_seconds: float
) -> LogBounds:
    """Return the bounds of each partition of the topics that exist; asks once.

    Raises:
        EnvironmentFailure: the cluster did not answer in time, or refused.
    """
    admin = _admin(connection)
    try:
        metadata = admin.list_topics(timeout=timeout_seconds).topics
    except KafkaException as error:
        raise _failure("first offsets of partitions", error) from None
    partitions = [
        confluent_kafka.TopicPartition(topic, partition)
        for topic in topics
        if topic in metadata
        for partition in metadata[topic].partitions
    ]
    starts, ends = (
        _known_offsets(admin, dict.fromkeys(partitions, spec), what, timeout_seconds)
        for what, spec in (("start", OffsetSpec.earliest()), ("end", OffsetSpec.latest()))
    )
    return LogBounds(starts, ends)


def stable_ends(
    connection: KafkaConnection, partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, int]:
    """Return the offset up to which transactions have ended, of each partition where it is known.

    Raises:
        EnvironmentFailure: the cluster did not answer in time, or refused.
    """
    requests = {confluent_kafka.TopicPartition(*key): OffsetSpec.latest() for key in partitions}
    isolation = IsolationLevel.READ_COMMITTED
    admin = _admin(connection)
    return _known_offsets(admin, requests, "end", REQUEST_TIMEOUT_SECONDS, isolation)


def offsets_at(connection: KafkaConnection, topic: str, timestamp_ms: int) -> dict[int, int]:
    """Return for each partition the first offset with that timestamp or a later one.

    It is the end of the log where there is none.

    Raises:
        EnvironmentFailure: the topic is missing, or the cluster refused.
    """
    ends = {partition: high for partition, (_, high) in watermarks(connection, topic).items()}
    spec = OffsetSpec.for_timestamp(timestamp_ms)
    offsets = _offsets(_admin(connection), topic, len(ends), spec)
    return {
        partition: offset if offset >= 0 else ends[partition]
        for partition, offset in offsets.items()
    }


def partition_stamped_after(
    connection: KafkaConnection, topics: Iterable[str], timestamp_ms: int
) -> TopicPartition | None:
    """Return a partition with a record of that timestamp or later; None where there is none.

    Raises:
        EnvironmentFailure: the cluster refused.
    """
    admin = _admin(connection)
    for topic, partitions in partition_counts(connection, topics).items():
        offsets = _offsets(admin, topic, partitions, OffsetSpec.for_timestamp(timestamp_ms))
        for partition, offset in offsets.items():
            if offset >= 0:
                return TopicPartition(topic, partition)
    return None


class EndOffsets:
    """Fetches end offsets with one client, a single request and a short timeout."""

    def __init__(self, connection: KafkaConnection) -> None:
        self._admin = _admin(connection)

    def fetch(
        self, partitions: Iterable[TopicPartition], timeout_seconds: float = 5.0
    ) -> dict[TopicPartition, int]:
        """Return the offset after the last record of each partition, where it is known.

        Raises:
            EnvironmentFailure: the cluster did not answer in time, or refused.
        """
        requests = {
            confluent_kafka.TopicPartition(*partition): OffsetSpec.latest()
            for partition in partitions
        }
        return _known_offsets(self._admin, requests, "end", timeout_seconds)


def alter_group_offsets(
    connection: KafkaConnection, group: str, offsets: Mapping[TopicPartition, int]
) -> None:
    """Set the offsets from which a consumer group reads on; the group must have no member.

    Args:
        connection: the cluster.
        group: the consumer group; created when it doesn't exist.
        offsets: the next offset to read, by partition.

    Raises:
        EnvironmentFailure: the group is in use, or the cluster refused.
    """
    if not offsets:
        return
    partitions = [
        confluent_kafka.TopicPartition(topic, partition, offset)
        for (topic, partition), offset in offsets.items()
    ]
    what = f"offsets of consumer group {group}"
    _retried(lambda: _alter_offsets(connection, group, partitions), what)


def commit_group_offsets(
    connection: KafkaConnection, group: str, offsets: Mapping[TopicPartition, int]
) -> None:
    """Set the offsets of a consumer group as `alter_group_offsets` does, but try once.

    Raises:
        EnvironmentFailure: the group is in use, or the cluster refused or did not answer in
            `COORDINATOR_TIMEOUT_SECONDS`.
    """
    partitions = [
        confluent_kafka.TopicPartition(topic, partition, offset)
        for (topic, partition), offset in offsets.items()
    ]
    try:
        _alter_offsets(connection, group, partitions)
    except KafkaException as error:
        if error.args[0].code() in _MAY_NOT_COMMIT:
            raise EnvironmentFailure(
                f"--consumer_group={group}: the client may not set the group's offsets "
                f"({error.args[0].str()}); allow it READ on the group and on the input topics"
            ) from None
        raise _failure(f"offsets of consumer group {group}", error) from None


def _alter_offsets(
    connection: KafkaConnection, group: str, partitions: list[confluent_kafka.TopicPartition]
) -> None:
    # A new client for each try: one that asked before a new broker had created its internal topic
    # was seen to time out waiting for the coordinator again and again.
    admin = _admin(connection)
    futures = admin.alter_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, partitions)],
        request_timeout=COORDINATOR_TIMEOUT_SECONDS,
    )
    try:
        for future in futures.values():
            for partition in future.result().topic_partitions:
                if partition.error:
                    raise KafkaException(partition.error)
    except KafkaException as error:
        if error.args[0].code() in _GROUP_IN_USE:
            raise EnvironmentFailure(
                f"--consumer_group={group}: another consumer is a member of this group; end that "
                "one, or give the pipeline a group of its own (the default is one)"
            ) from None
        raise


def _admin(connection: KafkaConnection, on_error: Any = lambda error: None) -> AdminClient:
    """Return a client; keep it until its futures are done, because they end with it."""
    settings = {**connection.for_librdkafka(), "error_cb": on_error}
    return AdminClient(settings, logger=librdkafka_logger())


def _describe(
    connection: KafkaConnection, names: Iterable[str], *, with_operations: bool = False
) -> dict[str, Any]:
    admin = _admin(connection)
    futures = admin.describe_topics(
        TopicCollection(list(names)),
        request_timeout=REQUEST_TIMEOUT_SECONDS,
        include_authorized_operations=with_operations,
    )
    descriptions = {}
    for name, future in futures.items():
        try:
            descriptions[name] = future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _failure(f"topic {name} can't be described", error) from None
    return descriptions


def _known_offsets(
    admin: AdminClient,
    requests: Mapping[confluent_kafka.TopicPartition, OffsetSpec],
    what: str,
    timeout_seconds: float,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[TopicPartition, int]:
    """Return the offsets that are asked for, where they are known; `what` is for messages."""
    if not requests:
        return {}
    try:
        futures = admin.list_offsets(
            dict(requests), request_timeout=timeout_seconds, isolation_level=isolation
        )
    except KafkaException as error:
        raise _failure(f"{what}s of partitions", error) from None
    offsets = {
        TopicPartition(key.topic, key.partition): _result(f"{what} of {key.topic}", future).offset
        for key, future in futures.items()
    }
    return {partition: offset for partition, offset in offsets.items() if offset >= 0}


def _offsets(admin: AdminClient, topic: str, partitions: int, spec: OffsetSpec) -> dict[int, int]:
    """Return the offset that `spec` names in each of the topic's partitions."""

    def fetch() -> dict[int, int]:
        requests = {
            confluent_kafka.TopicPartition(topic, number): spec for number in range(partitions)
        }
        futures = admin.list_offsets(requests, request_timeout=REQUEST_TIMEOUT_SECONDS)
        return {key.partition: future.result().offset for key, future in futures.items()}

    return _retried(fetch, f"offsets of topic {topic}")


def _retried(operation: Callable[[], T], what: str) -> T:
    """Return the result of an operation; retry it while its error is one that passes."""
    deadline = time.monotonic() + SETTLING_TIMEOUT_SECONDS
    while True:
        try:
            return operation()
        except KafkaException as error:
            if error.args[0].code() not in _SETTLING or time.monotonic() > deadline:
                raise _failure(what, error) from None
            time.sleep(_RETRY_SECONDS)


def _result(what: str, future: Future[Any]) -> Any:
    try:
        return future.result()
    except KafkaException as error:
        raise _failure(what, error) from None


def _failure(what: str, error: KafkaException) -> EnvironmentFailure:
    return EnvironmentFailure(f"Kafka: {what}: {error.args[0].str()}")
