"""The embedded broker and the admin client, against each other."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from integration.pipeline_runs import PipelineRun

from beam_pipeline.errors import EnvironmentFailure
from beam_pipeline.kafka.admin import (
    TopicSpec,
    alter_group_offsets,
    cluster_reachable,
    create_topics,
    partition_counts,
    require_cluster,
    topic_config,
    topic_ids,
    watermarks,
)
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.properties import format_properties
from beam_pipeline.offset_sets import TopicPartition as Partition
from beam_pipeline.runtime.processes import free_port
from beam_pipeline.runtime.programs.broker import MAX_MESSAGE_BYTES, EmbeddedBroker
from beam_pipeline.runtime.programs.jvm import start_jvm

FreshTopic = Callable[..., str]
MakeBroker = Callable[..., EmbeddedBroker]


@pytest.fixture
def make_broker(java: Path, kafka_jars: list[Path], tmp_path: Path) -> Iterator[MakeBroker]:
    """Describes brokers on one directory, and ends all of them after the test."""
    with ExitStack() as stack:

        def make(port: int = 0, settings: dict[str, str] | None = None) -> EmbeddedBroker:
            broker = EmbeddedBroker(
                tmp_path / "kafka",
                java=java,
                jars=kafka_jars,
                log_file=tmp_path / "broker.log",
                port=port,
                settings=settings,
            )
            stack.callback(broker.stop, grace_seconds=0)
            return broker

        yield make


def start(broker: EmbeddedBroker) -> EmbeddedBroker:
    broker.start()
    broker.wait_ready()
    return broker


def produce(connection: KafkaConnection, topic: str, *values: bytes, **settings: int) -> None:
    producer = Producer({**connection.for_librdkafka(), "acks": "all", **settings})
    errors: list[object] = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    producer.flush(20)
    assert errors == [None] * len(values)


def consume(
    connection: KafkaConnection, topic: str, count: int, group: str = "reader"
) -> list[bytes | None]:
    settings = {
        **connection.for_librdkafka(),
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": "false",
    }
    consumer = Consumer(settings)
    try:
        consumer.subscribe([topic])
        values: list[bytes | None] = []
        deadline = time.monotonic() + 20
        while len(values) < count and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is not None:
                assert message.error() is None
                values.append(message.value())
        return values
    finally:
        consumer.close()


def test_records_pass_through(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic()
    produce(kafka, topic, b"first", b"", b"\xff\x00")
    assert consume(kafka, topic, 3) == [b"first", b"", b"\xff\x00"]
    assert watermarks(kafka, topic) == {0: (0, 3)}


def test_a_value_of_nearly_16_mib_is_taken(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic()
    value = bytes(MAX_MESSAGE_BYTES - 1024)
    produce(kafka, topic, value, **{"message.max.bytes": MAX_MESSAGE_BYTES + 65536})
    assert consume(kafka, topic, 1) == [value]


def test_it_listens_on_loopback_only(broker: EmbeddedBroker) -> None:
    host, _, port = broker.bootstrap.partition(":")
    assert host == "127.0.0.1"
    socket.create_connection((host, int(port)), timeout=5).close()
    # A socket bound to every address would take this one too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5)


def test_a_restart_keeps_data_and_address(make_broker: MakeBroker) -> None:
    broker = start(make_broker())
    address = broker.bootstrap
    create_topics(broker.connection, [TopicSpec("kept", 2)])
    identity = topic_ids(broker.connection, ["kept"])
    produce(broker.connection, "kept", b"before")
    assert consume(broker.connection, "kept", 1) == [b"before"]

    broker.stop()
    assert not broker.process.alive
    assert not cluster_reachable(broker.connection, timeout_seconds=1)
    start(broker)
    assert broker.bootstrap == address
    assert consume(broker.connection, "kept", 1, group="second") == [b"before"]

    broker.process.terminate(grace_seconds=10)
    other = start(make_broker())
    assert other.bootstrap != address
    assert topic_ids(other.connection, ["kept"]) == identity
    assert consume(other.connection, "kept", 1, group="third") == [b"before"]


def test_a_killed_broker_comes_back(make_broker: MakeBroker) -> None:
    broker = start(make_broker())
    create_topics(broker.connection, [TopicSpec("kept", 1)])
    produce(broker.connection, "kept", b"one", b"two")
    # Without a time of grace this is SIGKILL.
    broker.stop(grace_seconds=0)
    assert broker.process.returncode in (-signal.SIGKILL, -signal.SIGTERM, 143)
    start(broker)
    assert watermarks(broker.connection, "kept") == {0: (0, 2)}
    produce(broker.connection, "kept", b"three")
    assert consume(broker.connection, "kept", 3) == [b"one", b"two", b"three"]


def test_the_command_needs_no_topics(tmp_path: Path) -> None:
    run = PipelineRun(tmp_path / "run")
    process = run.start("broker", "--port=0", f"--log_dir={tmp_path / 'logs'}")
    assert process.stdout is not None
    told = iter(process.stdout.readline, "")
    assert next(line for line in told if line.startswith(("Kafka is up", "Traceback"))), "no line"
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, rest
    assert run.processes() == {}


def test_a_taken_port_is_one_clear_line(make_broker: MakeBroker) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            EnvironmentFailure, match=rf"^Kafka broker: port {port} on .* can't be used"
        ) as caught:
            make_broker(port).start()
    assert "\n" not in str(caught.value)


def test_a_broken_setting_is_one_clear_line(make_broker: MakeBroker) -> None:
    broker = make_broker(settings={"message.max.bytes": "many"})
    with pytest.raises(
        EnvironmentFailure, match="Kafka storage tool ended with exit code"
    ) as caught:
        broker.start()
    assert "message.max.bytes" in str(caught.value)


def test_topics_are_made_by_order_only(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic(partitions=3, retention_ms="60000")
    assert partition_counts(kafka, [topic, "no-such-topic"]) == {topic: 3}
    settings = topic_config(kafka, [topic])[topic]
    assert settings["message.timestamp.type"] == "LogAppendTime"
    assert settings["retention.ms"] == "60000"
    with pytest.raises(EnvironmentFailure, match=f"topic {topic} can't be created: .*exists"):
        create_topics(kafka, [TopicSpec(topic, 3)])
    create_topics(kafka, [TopicSpec(topic, 3)], exist_ok=True)
    with pytest.raises(EnvironmentFailure, match="topic no-such-topic"):
        watermarks(kafka, "no-such-topic")
    with pytest.raises(EnvironmentFailure, match="topic no-such-topic"):
        topic_config(kafka, ["no-such-topic"])
    with pytest.raises(EnvironmentFailure, match=r"nonsense"):
        create_topics(kafka, [TopicSpec("other", 1, {"nonsense": "1"})])


def test_a_topic_made_anew_has_another_id(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic()
    first = topic_ids(kafka, [topic])[topic]
    admin = AdminClient({**kafka.for_librdkafka()})
    admin.delete_topics([topic])[topic].result(20)
    deadline = time.monotonic() + 20
    while topic in topic_ids(kafka, [topic]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    create_topics(kafka, [TopicSpec(topic, 1)])
    assert topic_ids(kafka, [topic])[topic] != first


def test_watermarks_follow_deleted_records(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic(partitions=2)
    producer = Producer({**kafka.for_librdkafka()})
    for number in range(10):
        producer.produce(topic, str(number), partition=1)
    assert producer.flush(20) == 0
    assert watermarks(kafka, topic) == {0: (0, 0), 1: (0, 10)}
    admin = AdminClient({**kafka.for_librdkafka()})
    for future in admin.delete_records([TopicPartition(topic, 1, 4)]).values():
        future.result(20)
    assert watermarks(kafka, topic) == {0: (0, 0), 1: (4, 10)}


def test_a_group_goes_on_where_it_is_told(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic()
    produce(kafka, topic, b"0", b"1", b"2", b"3")
    group = f"group-of-{topic}"
    alter_group_offsets(kafka, group, {})
    alter_group_offsets(kafka, group, {Partition(topic, 0): 2})
    assert consume(kafka, topic, 2, group) == [b"2", b"3"]
    alter_group_offsets(kafka, group, {Partition(topic, 0): 1})
    assert consume(kafka, topic, 3, group) == [b"1", b"2", b"3"]
    with pytest.raises(EnvironmentFailure, match=f"offsets of consumer group {group}"):
        alter_group_offsets(kafka, group, {Partition("no-such-topic", 0): 1})


def test_a_group_in_use_is_left_alone(kafka: KafkaConnection, fresh_topic: FreshTopic) -> None:
    topic = fresh_topic()
    produce(kafka, topic, b"0")
    group = f"group-of-{topic}"
    consumer = Consumer(
        {**kafka.for_librdkafka(), "group.id": group, "auto.offset.reset": "earliest"}
    )
    try:
        consumer.subscribe([topic])
        assert consumer.poll(20) is not None
        with pytest.raises(EnvironmentFailure, match=f"--consumer_group={group}: another consumer"):
            alter_group_offsets(kafka, group, {Partition(topic, 0): 0})
    finally:
        consumer.close()


def test_no_broker_is_one_clear_line(capfd: pytest.CaptureFixture[str]) -> None:
    nobody = KafkaConnection(f"127.0.0.1:{free_port()}")
    started = time.monotonic()
    assert not cluster_reachable(nobody, timeout_seconds=1)
    with pytest.raises(EnvironmentFailure) as caught:
        require_cluster(nobody, timeout_seconds=1)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert message.startswith(f"--kafka_bootstrap_servers={nobody.bootstrap_servers}: no broker")
    assert "refused" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_a_login_is_used_by_librdkafka_and_java(
    mechanism: str, make_broker: MakeBroker, java: Path, kafka_jars: list[Path], tmp_path: Path
) -> None:
    """One client file serves both, with a password that both have to quote."""
    password = 'p"a\\ss; =word'
    ports = [free_port() for _ in range(3)]
    names = ("PLAINTEXT", "SASL_PLAINTEXT", "CONTROLLER")
    listeners = [f"{name}://127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)]
    modules = "org.apache.kafka.common.security"
    settings = {
        "listeners": ",".join(listeners),
        "advertised.listeners": ",".join(listeners[:2]),
        "controller.quorum.voters": f"1@127.0.0.1:{ports[2]}",
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"
        ),
        "sasl.enabled.mechanisms": mechanism,
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": (
            rf'{modules}.plain.PlainLoginModule required user_ann="p\"a\\ss; =word";'
        ),
        "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": (
            f"{modules}.scram.ScramLoginModule required;"
        ),
    }
    broker = start(make_broker(ports[0], settings))
    if mechanism != "PLAIN":
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        user = UserScramCredentialUpsertion("ann", info, password.encode())
        admin = AdminClient({**broker.connection.for_librdkafka()})
        admin.alter_user_scram_credentials([user])["ann"].result(20)

    def connection(password: str) -> KafkaConnection:
        config = tmp_path / "client.properties"
        properties = {
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": mechanism,
            "sasl.username": "ann",
            "sasl.password": password,
        }
        config.write_text(format_properties(properties), encoding="ascii")
        return KafkaConnection.from_flags(f"127.0.0.1:{ports[1]}", config)

    require_cluster(connection(password))
    with pytest.raises(EnvironmentFailure, match=r"refuses the login.*--kafka_config") as caught:
        require_cluster(connection("wrong-secret"), timeout_seconds=3)
    assert "uthentication failed" in str(caught.value)
    assert "wrong-secret" not in str(caught.value)
    assert cluster_reachable(connection("wrong-secret")), "it is not away"

    java_config = tmp_path / "java.properties"
    java_config.write_text(format_properties(connection(password).for_java()), encoding="ascii")
    arguments = ["--bootstrap-server", f"127.0.0.1:{ports[1]}", "--describe"]
    arguments += ["--command-config", str(java_config), "--entity-type", "brokers"]
    with start_jvm(
        "Kafka config command",
        java,
        kafka_jars,
        "kafka.admin.ConfigCommand",
        arguments,
        tmp_path / "command.log",
        heap_mb=128,
        properties={},
    ) as command:
        assert command.wait(30) == 0, command.tail()
    assert "configs for broker 1" in (tmp_path / "command.log").read_text()
