"""Connection settings: what Java and librdkafka each get, and that no secret is ever shown."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from beam_pipeline.errors import UsageError
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.properties import format_properties

# Long and of one alphabet, so that none is found in other text by chance.
secrets = st.text(alphabet="ZQXzqx0123456789\\\"'=:#! ", min_size=12, max_size=40).filter(
    lambda text: text.strip() == text
)
any_text = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30)


def config_file(directory: Path, **properties: str) -> Path:
    path = directory / "client.properties"
    path.write_text(format_properties(properties), encoding="utf-8")
    return path


@given(
    secret=secrets,
    key=st.sampled_from(
        ["sasl.password", "ssl.key.password", "ssl.keystore.key", "sasl.jaas.config", "made.up"]
    ),
)
def test_a_secret_is_in_no_rendering(secret: str, key: str) -> None:
    connection = KafkaConnection("broker:9092", {"security.protocol": "SASL_SSL", key: secret})
    for shown in (repr(connection), str(connection), f"{connection}", repr([connection])):
        assert secret not in shown
        assert key in shown
        assert "SASL_SSL" in shown


@given(secret=secrets)
@pytest.mark.parametrize(
    "broken",
    [
        {"security.protocol": "SASL_SSL", "sasl.username": "u", "sasl.mechanism": "GSSAPI"},
        {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"},
        {"security.protocol": "TLS"},
        {"ssl.truststore.location": "trust.jks"},
        {"ssl.keystore.location": "key.jks"},
        {"sasl.jaas.config": "", "sasl.mechanism": "PLAIN"},
    ],
)
def test_a_secret_is_in_no_error(
    broken: dict[str, str], secret: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    properties = {**broken, "sasl.password": secret, "ssl.keystore.password": secret}
    if "sasl.jaas.config" in broken:
        properties["sasl.jaas.config"] = f"com.example.Module required password={secret};"
    path = config_file(tmp_path_factory.getbasetemp(), **properties)
    with pytest.raises(UsageError) as caught:
        KafkaConnection.from_flags("broker:9092", path)
    error: BaseException | None = caught.value
    while error is not None:
        assert secret not in str(error)
        error = error.__cause__


@given(user=any_text.filter(bool), password=any_text.filter(bool))
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_login_survives_the_way_through_java_settings(
    mechanism: str, user: str, password: str
) -> None:
    given_by_name = KafkaConnection(
        "broker:9092",
        {"sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password},
    )
    java = given_by_name.for_java()
    assert "sasl.username" not in java
    assert "sasl.password" not in java
    java.pop("bootstrap.servers")
    settings = KafkaConnection("broker:9092", java).for_librdkafka()
    assert settings == given_by_name.for_librdkafka()
    assert (settings["sasl.username"], settings["sasl.password"]) == (user, password)


def test_jaas_config_of_each_mechanism() -> None:
    login = {"sasl.username": "ann", "sasl.password": 'a"b\\c'}
    plain = KafkaConnection("b:1", {**login, "sasl.mechanism": "PLAIN"}).for_java()
    assert plain["sasl.jaas.config"] == (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'username="ann" password="a\\"b\\\\c";'
    )
    scram = KafkaConnection("b:1", {**login, "sasl.mechanism": "SCRAM-SHA-512"}).for_java()
    assert "security.scram.ScramLoginModule required" in scram["sasl.jaas.config"]


@pytest.mark.parametrize(
    "options",
    [
        'username="ann" password="s e\\"cret"',
        "password='s e\"cret'\n   username=ann",
    ],
)
def test_jaas_config_in_the_forms_that_java_takes(options: str) -> None:
    jaas = f"org.apache.kafka.common.security.scram.ScramLoginModule required {options};"
    connection = KafkaConnection(
        "b:1", {"sasl.mechanism": "SCRAM-SHA-256", "sasl.jaas.config": jaas}
    )
    settings = connection.for_librdkafka()
    assert settings["sasl.username"] == "ann"
    assert settings["sasl.password"] == 's e"cret'
    assert connection.for_java()["sasl.jaas.config"] == jaas


def test_stores_in_pem_files() -> None:
    connection = KafkaConnection(
        "b:1",
        {
            "security.protocol": "SSL",
            "ssl.truststore.location": "/pki/ca.pem",
            "ssl.keystore.location": "/pki/client",
            "ssl.keystore.type": "PEM",
            "ssl.key.password": "secret",
            "ssl.endpoint.identification.algorithm": "",
        },
    )
    assert connection.for_librdkafka() == {
        "bootstrap.servers": "b:1",
        "security.protocol": "SSL",
        "ssl.ca.location": "/pki/ca.pem",
        "ssl.key.location": "/pki/client",
        "ssl.certificate.location": "/pki/client",
        "ssl.key.password": "secret",
        "ssl.endpoint.identification.algorithm": "none",
    }
    java = connection.for_java()
    assert java["ssl.truststore.type"] == java["ssl.keystore.type"] == "PEM"
    assert java["ssl.endpoint.identification.algorithm"] == ""


def test_stores_given_inline_and_in_pkcs12() -> None:
    inline = KafkaConnection(
        "b:1",
        {
            "ssl.truststore.certificates": "CA",
            "ssl.keystore.key": "KEY",
            "ssl.keystore.certificate.chain": "CHAIN",
        },
    )
    settings = inline.for_librdkafka()
    assert settings["ssl.ca.pem"] == "CA"
    assert (settings["ssl.key.pem"], settings["ssl.certificate.pem"]) == ("KEY", "CHAIN")
    assert inline.for_java()["ssl.keystore.type"] == "PEM"

    pkcs12 = KafkaConnection(
        "b:1",
        {
            "ssl.keystore.location": "/pki/client.p12",
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.password": "secret",
        },
    ).for_librdkafka()
    assert pkcs12["ssl.keystore.location"] == "/pki/client.p12"
    assert pkcs12["ssl.keystore.password"] == "secret"


@pytest.mark.parametrize(
    ("properties", "remedy"),
    [
        ({"ssl.truststore.location": "/pki/trust.jks"}, "ssl.truststore.type=PEM"),
        ({"ssl.truststore.location": "/pki/trust", "ssl.truststore.type": "JKS"}, "keytool"),
        ({"ssl.keystore.location": "/pki/key.jks"}, "ssl.keystore.type=PKCS12"),
        ({"sasl.username": "ann"}, "must be given together"),
        ({"sasl.username": "ann", "sasl.password": "p"}, "sasl.mechanism"),
        ({"sasl.jaas.config": "com.example.Other required;"}, "SCRAM-SHA-256"),
        ({"security.protocol": "TLS"}, "SASL_SSL"),
    ],
)
def test_what_one_client_cannot_take_is_refused(
    properties: dict[str, str], remedy: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"^--kafka_config") as caught:
        KafkaConnection.from_flags("broker:9092", config_file(tmp_path, **properties))
    assert remedy in str(caught.value)
    assert caught.value.exit_code == 2


def test_librdkafka_accepts_what_it_is_given(tmp_path: Path) -> None:
    """Settings for Java alone are dropped, and the rest constructs a client."""
    path = config_file(
        tmp_path,
        **{
            "security.protocol": "SASL_SSL",
            "sasl.mechanisms": "SCRAM-SHA-256",
            "sasl.username": "ann",
            "sasl.password": "secret",
            "client.id": "test",
            "client.dns.lookup": "use_all_dns_ips",
            "client.rack": "a",
            "connections.max.idle.ms": "60000",
            "metadata.max.age.ms": "60000",
            "reconnect.backoff.ms": "100",
            "reconnect.backoff.max.ms": "1000",
            "retry.backoff.ms": "100",
            "retry.backoff.max.ms": "1000",
            "max.poll.records": "10",
            "sasl.login.connect.timeout.ms": "1000",
        },
    )
    connection = KafkaConnection.from_flags("localhost:9092", path)
    settings = connection.for_librdkafka()
    assert "max.poll.records" not in settings
    assert settings["sasl.mechanism"] == "SCRAM-SHA-256"
    AdminClient({**settings})
    assert connection.for_java()["max.poll.records"] == "10"


def test_address_from_flag_or_file(tmp_path: Path) -> None:
    path = config_file(tmp_path, **{"bootstrap.servers": "file:9092"})
    assert KafkaConnection.from_flags(None, path).bootstrap_servers == "file:9092"
    flag = KafkaConnection.from_flags("flag:9092, [::1]:9093", path)
    assert flag.for_java()["bootstrap.servers"] == "flag:9092,[::1]:9093"
    with pytest.raises(UsageError, match="--kafka_bootstrap_servers is missing"):
        KafkaConnection.from_flags(None, None)


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", "a:0", "a:70000", "a:1,,b:2", "a b:1"]
)
def test_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"expected HOST:PORT") as caught:
        KafkaConnection.from_flags(address, None)
    assert address in str(caught.value)


@given(secret=st.text(string.ascii_letters, min_size=8).map(lambda text: f"s3-{text}"))
def test_a_password_in_the_address_is_not_repeated(secret: str) -> None:
    with pytest.raises(UsageError) as caught:
        KafkaConnection.from_flags(f"ann:{secret}@broker:9092", None)
    assert secret not in str(caught.value)


def test_config_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--kafka_config=.*none: No such file"):
        KafkaConnection.from_flags("b:1", tmp_path / "none")
    (tmp_path / "latin").write_bytes(b"sasl.password=\xe9\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        KafkaConnection.from_flags("b:1", tmp_path / "latin")
    (tmp_path / "escape").write_text("sasl.password=secret\\u12\n", encoding="utf-8")
    with pytest.raises(UsageError, match="four hexadecimal digits"):
        KafkaConnection.from_flags("b:1", tmp_path / "escape")
