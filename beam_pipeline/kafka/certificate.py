"""Find out why a broker's certificate is not trusted.

librdkafka 2.16 gives one message, "broker certificate could not be verified", for an expired
certificate and for an unknown issuer. Python's ssl module gives the reason.
"""

from __future__ import annotations

import socket
import ssl

from beam_pipeline.kafka.connection import KafkaConnection

_TIMEOUT_SECONDS = 5.0
_CA_SETTING = "ssl.ca.location (or ssl.truststore.location) in --kafka_config"

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_CERT_NOT_YET_VALID, _CERT_HAS_EXPIRED = 9, 10
_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN = 18, 19
_NO_ISSUER, _NO_ISSUER_LOCALLY, _UNVERIFIABLE = 2, 20, 21
_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH = 62, 64
_REASONS = {
    _CERT_NOT_YET_VALID: "is not valid yet; set this machine's clock, or wait",
    _CERT_HAS_EXPIRED: "has expired; renew it on the broker, or set this machine's clock",
    _SELF_SIGNED: f"is self-signed and not trusted; give it, as a PEM file, in {_CA_SETTING}",
    _HOSTNAME_MISMATCH: "is for other host names; use one of those in --kafka_bootstrap_servers",
    _IP_ADDRESS_MISMATCH: "is for other addresses; use one of those in --kafka_bootstrap_servers",
    **dict.fromkeys(
        (_SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_ISSUER_LOCALLY, _UNVERIFIABLE),
        f"is by an issuer that is not trusted; give the issuer's, as a PEM file, in {_CA_SETTING}",
    ),
}


def certificate_problem(connection: KafkaConnection) -> str | None:
    """Return what is wrong with the certificate of the first broker that shows one.

    Returns:
        the end of a sentence about the certificate with a remedy, such as "has expired; …"; None
        where nothing is wrong or the reason can't be found.
    """
    context = _context(connection)
    if context is None:
        return None
    for server in connection.bootstrap_servers.split(","):
        host, _, port = server.rpartition(":")
        name = host.strip("[]")
        try:
            with (
                socket.create_connection((name, int(port)), timeout=_TIMEOUT_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=name),
            ):
                return None
        except ssl.SSLCertVerificationError as error:
            return _REASONS.get(error.verify_code, f"is refused: {error.verify_message}")
        except OSError:  # TLS errors are among them
            continue
    return None


def _context(connection: KafkaConnection) -> ssl.SSLContext | None:
    """Return the trust that librdkafka has; None where its settings are wrong: it reports that."""
    settings = connection.for_librdkafka()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = settings.get("ssl.endpoint.identification.algorithm") != "none"
    location, certificates = settings.get("ssl.ca.location"), settings.get("ssl.ca.pem")
    try:
        if location or certificates:
            context.load_verify_locations(cafile=location, cadata=certificates)
        else:
            context.load_default_certs()
    except (OSError, ValueError):
        return None
    return context
