"""Connection settings of a Kafka cluster, for Java clients and for librdkafka.

Settings are Java client properties, as in the files that Kafka's own tools take. One file serves
the Java reader and writer of the pipeline and the clients of librdkafka.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from beam_pipeline.errors import UsageError
from beam_pipeline.kafka.properties import parse_properties

_ADDRESS = re.compile(r"(?:[^\s:,/@\[\]]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_PASSWORD_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

# The only settings whose values are shown; any other may be a secret.
_SHOWN = frozenset(
    {
        "client.id",
        "sasl.mechanism",
        "security.protocol",
        "ssl.endpoint.identification.algorithm",
        "ssl.keystore.type",
        "ssl.truststore.type",
    }
)
# Settings that librdkafka knows by the same name and with the same values.
_COMMON = frozenset(
    {
        "client.dns.lookup",
        "client.id",
        "client.rack",
        "connections.max.idle.ms",
        "metadata.max.age.ms",
        "reconnect.backoff.max.ms",
        "reconnect.backoff.ms",
        "retry.backoff.max.ms",
        "retry.backoff.ms",
        "sasl.kerberos.service.name",
        "sasl.mechanism",
        "security.protocol",
        "ssl.key.password",
    }
)
# librdkafka's names that users put into such a file, and their Java names.
_ALIASES = {"sasl.mechanisms": "sasl.mechanism", "ssl.ca.location": "ssl.truststore.location"}


@dataclass(frozen=True, slots=True, repr=False)
class KafkaConnection:
    """Address and client settings of a cluster; secrets are masked in `repr` and `str`.

    Attributes:
        bootstrap_servers: comma-separated host:port.
        properties: Java client properties other than `bootstrap.servers`; `sasl.username` and
            `sasl.password` may be given instead of `sasl.jaas.config`.
    """

    bootstrap_servers: str
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def from_flags(cls, bootstrap_servers: str | None, config_file: Path | None) -> KafkaConnection:
        """Return the connection that `--kafka_bootstrap_servers` and `--kafka_config` describe.

        Args:
            bootstrap_servers: the flag's value; `bootstrap.servers` of the file when None.
            config_file: a Java properties file with client settings.

        Raises:
            UsageError: there is no address, an address has no port, the file can't be read, or
                settings contradict each other or are of no use to one of the clients.
        """
        properties = _read_config(config_file) if config_file else {}
        in_file = properties.pop("bootstrap.servers", None)
        address = bootstrap_servers or in_file
        if not address:
            raise UsageError(
                "--kafka_bootstrap_servers is missing: give HOST:PORT[,HOST:PORT...], "
                "or bootstrap.servers in the file of --kafka_config"
            )
        connection = cls(_checked_address(address), properties)
        connection.for_java()
        connection.for_librdkafka()
        return connection

    @classmethod
    def of_java(cls, properties: Mapping[str, str]) -> KafkaConnection:
        """Return the connection whose `for_java` gave these properties."""
        rest = dict(properties)
        return cls(rest.pop("bootstrap.servers", ""), rest)

    def for_java(self) -> dict[str, str]:
        """Return settings for Java clients, such as KafkaIO.

        Raises:
            UsageError: a user name has no password, or the mechanism takes no user name.
        """
        result = dict(self.properties)
        login = _login(result)
        if login is not None and "sasl.jaas.config" not in result:
            result["sasl.jaas.config"] = _jaas_config(*login, result.get("sasl.mechanism", ""))
        result.pop("sasl.username", None)
        result.pop("sasl.password", None)
        for store in ("truststore", "keystore"):
            if _is_pem(result, store):
                result[f"ssl.{store}.type"] = "PEM"
        return {**result, "bootstrap.servers": self.bootstrap_servers}

    def for_librdkafka(self) -> dict[str, str]:
        """Return settings for confluent-kafka, without those that only Java clients know.

        Raises:
            UsageError: librdkafka can't use the key store, the trust store or the login module.
        """
        given = self.properties
        result = {key: value for key, value in given.items() if key in _COMMON}
        result["bootstrap.servers"] = self.bootstrap_servers
        if (login := _login(given)) is not None:
            result["sasl.username"], result["sasl.password"] = login
        if (algorithm := given.get("ssl.endpoint.identification.algorithm")) is not None:
            result["ssl.endpoint.identification.algorithm"] = algorithm or "none"
        result.update(_trust(given))
        result.update(_key(given))
        return result

    def __repr__(self) -> str:
        shown = {key: value if key in _SHOWN else "***" for key, value in self.properties.items()}
        return f"KafkaConnection({self.bootstrap_servers!r}, {shown!r})"


def librdkafka_logger() -> logging.Logger:
    """Return a logger that drops what it gets, for every client of librdkafka.

    Without a logger librdkafka writes its log lines to the terminal. Its errors reach the caller
    as exceptions, delivery reports and messages.
    """
    logger = logging.getLogger("beam_pipeline.librdkafka")
    logger.disabled = True
    return logger


def _read_config(path: Path) -> dict[str, str]:
    try:
        given = parse_properties(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--kafka_config={path}: {error.strerror}; give a file") from error
    except ValueError as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UsageError(f"--kafka_config={path}: {reason}") from None
    properties = {_ALIASES.get(key, key): value for key, value in given.items()}
    if "ssl.ca.location" in given:
        properties["ssl.truststore.type"] = "PEM"
    protocol = properties.get("security.protocol", "PLAINTEXT")
    if protocol.upper() not in _PROTOCOLS:
        raise UsageError(
            f"--kafka_config={path}: security.protocol is not one of {', '.join(_PROTOCOLS)}"
        )
    return properties


def _checked_address(address: str) -> str:
    for server in address.split(","):
        match = _ADDRESS.fullmatch(server.strip())
        if match is None or not 0 < int(match[1]) < 65536:
            shown = "***" if "@" in address else address
            raise UsageError(
                f"--kafka_bootstrap_servers={shown}: expected HOST:PORT[,HOST:PORT...], "
                "for example localhost:9092"
            )
    return ",".join(server.strip() for server in address.split(","))


def _login(properties: Mapping[str, str]) -> tuple[str, str] | None:
    """Return user name and password from either form of the settings; None when there are none."""
    mechanism = properties.get("sasl.mechanism", "").upper()
    if (jaas := properties.get("sasl.jaas.config")) is not None:
        options = {option: _jaas_value(text) for option, text in _JAAS_OPTION.findall(jaas)}
        user, password = options.get("username"), options.get("password")
        if user is None or password is None or mechanism not in _PASSWORD_MECHANISMS:
            raise UsageError(
                "--kafka_config: sasl.jaas.config can be used with sasl.mechanism "
                f'{", ".join(_PASSWORD_MECHANISMS)} and username="..." password="..." only'
            )
        return user, password
    user, password = properties.get("sasl.username"), properties.get("sasl.password")
    if user is None and password is None:
        return None
    if user is None or password is None:
        raise UsageError("--kafka_config: sasl.username and sasl.password must be given together")
    if mechanism not in _PASSWORD_MECHANISMS:
        raise UsageError(
            "--kafka_config: sasl.username needs sasl.mechanism to be one of "
            f"{', '.join(_PASSWORD_MECHANISMS)}"
        )
    return user, password


# Kafka reads this setting with java.io.StreamTokenizer: words, strings in either quote, C escapes.
_JAAS_OPTION = re.compile(
    r"""\b(username|password)\s*=\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[\w.$-]+)""", re.DOTALL
)
_JAAS_ESCAPE = re.compile(r"\\([0-3]?[0-7]{1,2}|.)", re.DOTALL)
_JAAS_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def _jaas_value(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        escape = match[1]
        return (
            chr(int(escape, 8)) if escape[0] in "01234567" else _JAAS_CONTROLS.get(escape, escape)
        )

    return _JAAS_ESCAPE.sub(character, text[1:-1]) if text[0] in "\"'" else text


def _jaas_config(user: str, password: str, mechanism: str) -> str:
    module = "plain.PlainLoginModule" if mechanism.upper() == "PLAIN" else "scram.ScramLoginModule"
    return (
        f"org.apache.kafka.common.security.{module} required "
        f"username={_jaas_quoted(user)} password={_jaas_quoted(password)};"
    )


def _jaas_quoted(text: str) -> str:
    """Quote a string for StreamTokenizer, where the end of a line ends a string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\r", "\\r") + '"'


def _is_pem(properties: Mapping[str, str], store: str) -> bool:
    """Return whether a store is PEM, by its type, its file name or its inline settings."""
    if kind := properties.get(f"ssl.{store}.type"):
        return kind.upper() == "PEM"
    inline = "ssl.truststore.certificates" if store == "truststore" else "ssl.keystore.key"
    location = properties.get(f"ssl.{store}.location", "")
    return inline in properties or location.lower().endswith((".pem", ".crt", ".cer"))


def _trust(properties: Mapping[str, str]) -> dict[str, str]:
    location = properties.get("ssl.truststore.location")
    if certificates := properties.get("ssl.truststore.certificates"):
        return {"ssl.ca.pem": certificates}
    if location is None:
        return {}
    if not _is_pem(properties, "truststore"):
        raise UsageError(
            f"--kafka_config: ssl.truststore.location={location} is not a PEM file; export its "
            "certificates with 'keytool -exportcert -rfc' into a .pem file and set "
            "ssl.truststore.type=PEM"
        )
    return {"ssl.ca.location": location}


def _key(properties: Mapping[str, str]) -> dict[str, str]:
    location = properties.get("ssl.keystore.location")
    if key := properties.get("ssl.keystore.key"):
        chain = properties.get("ssl.keystore.certificate.chain", "")
        return {"ssl.key.pem": key, "ssl.certificate.pem": chain}
    if location is None:
        return {}
    if _is_pem(properties, "keystore"):
        return {"ssl.key.location": location, "ssl.certificate.location": location}
    if properties.get("ssl.keystore.type", "").upper() == "PKCS12":
        password = properties.get("ssl.keystore.password")
        return {
            "ssl.keystore.location": location,
            **({} if password is None else {"ssl.keystore.password": password}),
        }
    raise UsageError(
        f"--kafka_config: ssl.keystore.location={location} is neither PEM nor PKCS12; convert it "
        "with 'keytool -importkeystore -deststoretype PKCS12' and set ssl.keystore.type=PKCS12"
    )
