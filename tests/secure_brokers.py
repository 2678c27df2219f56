"""A Kafka broker that asks for TLS and a SCRAM login, with certificates good and bad."""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from beam_pipeline.kafka.admin import TopicSpec, create_topics
from beam_pipeline.kafka.connection import KafkaConnection
from beam_pipeline.kafka.properties import format_properties
from beam_pipeline.runtime.processes import LOOPBACK, free_port
from beam_pipeline.runtime.programs.broker import EmbeddedBroker

GOOD, EXPIRED, SELF_SIGNED, OTHER_HOST = "good", "expired", "selfsigned", "otherhost"
USER = "alice"
# Characters that Java's properties, Java's login configuration and shells take for their own.
PASSWORD = 'pa"ss\\word=#;$(id) horse'
PASSWORD_CORE = "$(id) horse"
"""A part of the password that no way of quoting changes."""

_MECHANISM = "SCRAM-SHA-512"
_LOGIN_MODULE = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_NOW = datetime.now(timezone.utc)


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self, *, with_key: bool) -> bytes:
        """The certificate as PEM, behind its key as PKCS#8."""
        pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        if not with_key:
            return pem
        return pem + self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def make_certificate(
    name: str,
    issuer: Certificate | None = None,
    *,
    valid_days: tuple[int, int] = (-1, 10),
    hosts: tuple[str, ...] = (LOOPBACK,),
) -> Certificate:
    """A certificate for addresses or, without any, of an authority; self-signed with no issuer.

    `valid_days` are the first and the last day from now.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    extension: x509.ExtensionType = x509.BasicConstraints(ca=True, path_length=None)
    if hosts:
        addresses = [x509.IPAddress(ipaddress.ip_address(host)) for host in hosts]
        extension = x509.SubjectAlternativeName(addresses)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW + timedelta(days=valid_days[0]))
        .not_valid_after(_NOW + timedelta(days=valid_days[1]))
        .add_extension(extension, critical=not hosts)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Certificate(certificate, key)


@dataclass(frozen=True)
class SecureBroker:
    """A running broker: one SASL_SSL listener for each certificate, and a plain one for tests."""

    broker: EmbeddedBroker
    directory: Path
    ports: dict[str, int]

    @property
    def plain(self) -> KafkaConnection:
        """How a test reaches the broker without a login."""
        return self.broker.connection

    def config_file(
        self, directory: Path, *, listener: str = GOOD, password: str = PASSWORD, ca: str = "ca"
    ) -> Path:
        """A file for `--kafka_config`, as a user would write it."""
        path = directory / f"{uuid.uuid4().hex}.properties"
        settings = {
            "bootstrap.servers": f"{LOOPBACK}:{self.ports[listener]}",
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": _MECHANISM,
            "sasl.username": USER,
            "sasl.password": password,
            "ssl.ca.location": str(self.directory / f"{ca}.pem"),
        }
        path.write_text(format_properties(settings), encoding="ascii")
        return path

    def make_topic(self, partitions: int = 1) -> str:
        """A topic that no other test uses, stamped with the log's append time."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        config = {"message.timestamp.type": "LogAppendTime"}
        create_topics(self.plain, [TopicSpec(name, partitions, config)])
        return name


@contextmanager
def secure_broker(directory: Path, java: Path, jars: list[Path]) -> Iterator[SecureBroker]:
    """The broker, ready, for the time of the block."""
    ca = make_certificate("test authority", hosts=())
    certificates = {
        GOOD: make_certificate("broker", ca),
        EXPIRED: make_certificate("broker", ca, valid_days=(-10, -1)),
        SELF_SIGNED: make_certificate("broker"),
        OTHER_HOST: make_certificate("broker", ca, hosts=("192.0.2.1",)),
    }
    (directory / "ca.pem").write_bytes(ca.pem(with_key=False))
    for name, certificate in certificates.items():
        (directory / f"{name}-key.pem").write_bytes(certificate.pem(with_key=True))
        (directory / f"{name}.pem").write_bytes(certificate.pem(with_key=False))
    ports = {name: free_port() for name in certificates}
    plain_port = free_port()
    broker = EmbeddedBroker(
        directory / "kafka",
        java=java,
        jars=jars,
        log_file=directory / "broker.log",
        port=plain_port,
        settings=_settings(directory, ports, plain_port),
    )
    with broker:
        admin = AdminClient({**broker.connection.for_librdkafka()})
        login = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        user = UserScramCredentialUpsertion(USER, login, PASSWORD.encode())
        for future in admin.alter_user_scram_credentials([user]).values():
            future.result()
        yield SecureBroker(broker, directory, ports)


def _settings(directory: Path, ports: dict[str, int], plain_port: int) -> dict[str, str]:
    """Server properties: the broker's own listeners again, and one for each certificate."""
    controller_port = free_port()
    clients = [f"PLAINTEXT://{LOOPBACK}:{plain_port}"]
    clients += [f"{name.upper()}://{LOOPBACK}:{port}" for name, port in ports.items()]
    protocols = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
    settings = {
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": ",".join([*clients, f"CONTROLLER://{LOOPBACK}:{controller_port}"]),
        "advertised.listeners": ",".join(clients),
        "listener.security.protocol.map": ",".join(
            [*protocols, *(f"{name.upper()}:SASL_SSL" for name in ports)]
        ),
        "sasl.enabled.mechanisms": _MECHANISM,
    }
    for name in ports:
        prefix = f"listener.name.{name}"
        settings[f"{prefix}.ssl.keystore.type"] = "PEM"
        settings[f"{prefix}.ssl.keystore.location"] = str(directory / f"{name}-key.pem")
        settings[f"{prefix}.{_MECHANISM.lower()}.sasl.jaas.config"] = _LOGIN_MODULE
    return settings
