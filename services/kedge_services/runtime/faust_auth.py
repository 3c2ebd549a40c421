"""librdkafka's properties for TLS and SASL, as Faust and aiokafka want them.

The settings speak librdkafka's language everywhere.  What cannot be said to
aiokafka is an error at the start: a connection that is less protected than its
settings say would be worse than none.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from kedge.errors import UsageError

__all__ = ["faust_options"]

_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_KNOWN = {
    "client.id",
    "enable.ssl.certificate.verification",
    "metadata.max.age.ms",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.endpoint.identification.algorithm",
    "ssl.key.location",
    "ssl.key.password",
}
#: These say nothing about reading, and Faust only reads here.
_PRODUCING = (
    "acks", "batch.", "compression.", "delivery.", "enable.idempotence", "linger.", "message.",
    "partitioner", "queue.buffering.", "request.required.acks", "retries", "transaction.",
)  # fmt: skip


def faust_options(properties: Mapping[str, str | float | bool]) -> dict[str, Any]:
    """Give the options of ``faust.App`` that these properties of librdkafka mean.

    Raises
    ------
    UsageError
        A property has no counterpart, or its value is not supported.
    """
    unknown = [
        name for name in properties if name not in _KNOWN and not name.startswith(_PRODUCING)
    ]
    if unknown:
        raise UsageError(
            f"kafka.properties: {', '.join(sorted(unknown))} cannot be passed on to the service "
            "that speaks to Kafka through Faust; it knows "
            f"{', '.join(sorted(_KNOWN))} and what concerns producing only"
        )
    texts = {name: str(value) for name, value in properties.items()}
    protocol = texts.get("security.protocol", "PLAINTEXT").upper()
    if protocol not in _PROTOCOLS:
        raise UsageError(
            f"kafka.properties: security.protocol must be one of {', '.join(_PROTOCOLS)}"
        )
    options: dict[str, Any] = {}
    if "client.id" in texts:
        options["broker_client_id"] = texts["client.id"]
    if "metadata.max.age.ms" in texts:
        options["consumer_metadata_max_age_ms"] = int(texts["metadata.max.age.ms"])
    context = _ssl_context(texts) if protocol.endswith("SSL") else None
    if protocol.startswith("SASL"):
        options["broker_credentials"] = _sasl(texts, context)
    elif context is not None:
        from faust import SSLCredentials

        options["broker_credentials"] = SSLCredentials(context)
    return options


def _sasl(texts: Mapping[str, str], context: ssl.SSLContext | None) -> Any:
    from faust import SASLCredentials

    mechanism = texts.get("sasl.mechanism", texts.get("sasl.mechanisms", "")).upper()
    if mechanism not in _MECHANISMS:
        raise UsageError(
            f"kafka.properties: sasl.mechanism must be one of {', '.join(_MECHANISMS)} "
            "for the service that speaks to Kafka through Faust"
        )
    return SASLCredentials(
        username=texts.get("sasl.username"),
        password=texts.get("sasl.password"),
        ssl_context=context,
        mechanism=mechanism,
    )


def _ssl_context(texts: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=texts.get("ssl.ca.location"), cadata=texts.get("ssl.ca.pem")
        )
        if "ssl.certificate.location" in texts:
            context.load_cert_chain(
                texts["ssl.certificate.location"],
                texts.get("ssl.key.location"),
                texts.get("ssl.key.password"),
            )
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"kafka.properties: the TLS files cannot be used: {error}") from error
    # librdkafka's values: "https" (its default) and "none".
    if texts.get("ssl.endpoint.identification.algorithm", "https").lower() == "none":
        context.check_hostname = False
    if texts.get("enable.ssl.certificate.verification", "true").lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
