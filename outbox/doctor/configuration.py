"""Checks of the settings and of the libraries that are installed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from outbox.config.kafka_properties import is_secret
from outbox.doctor.check import Verdict, check, failed, warning
from outbox.doctor.patient import Patient
from outbox.errors import ConfigurationError, MissingExtra
from outbox.writer.outbox import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from outbox.config.sources import Found

#: The oldest versions without a known fault that matters to a relay.
_OLDEST = {
    "confluent-kafka": (
        "2.14.2",
        "its wheels carry OpenSSL and curl with known vulnerabilities",
    ),
    "psycopg": ("3.2", "it is older than what outbox-relay needs"),
    "sqlalchemy": ("2.0.36", "it is older than what outbox-relay needs"),
}


def installed(*names: str) -> dict[str, str]:
    """Return the versions of those distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with.

    >>> numbers("2.16.0rc1"), numbers("0.66b1")
    ((2, 16, 0), (0, 66))
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, match[0].split("."))) if match else ()


def old_libraries(versions: Mapping[str, str]) -> Iterator[Verdict]:
    """Judge the versions of libraries."""
    for name, version in versions.items():
        oldest, reason = _OLDEST[name]
        if numbers(version) < numbers(oldest):
            yield warning(
                f"{name} {version} is installed: {reason}",
                f'pip install --upgrade "{name}>={oldest}"',
            )


def _said(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def open_secrets(found: Mapping[str, Found]) -> Iterator[Verdict]:
    """Judge where secrets came from: everybody on the machine can read a command line."""
    for name, given in found.items():
        if given.source.startswith("flag") and _is_secret(name, str(given.value)):
            if name == "database_url":
                advice = "give it as OUTBOX_DATABASE_URL, or its file's name as …_URL_FILE"
            else:
                variable = "OUTBOX_KAFKA_" + name.removeprefix("kafka.").upper().replace(".", "_")
                advice = f"give it as {variable}, or its file's name as {variable}_FILE"
            yield warning(
                f"{name} came by {given.source}, where every user of this machine can read its"
                " password in the list of processes",
                advice,
            )


def _is_secret(name: str, value: str) -> bool:
    if name == "database_url":
        return re.search(r"://[^@/]*:[^@/]+@|\bpassword=", value) is not None
    return name.startswith("kafka.") and is_secret(name.removeprefix("kafka."))


def open_traffic(properties: Mapping[str, object]) -> Iterator[Verdict]:
    """Judge whether anybody on the way can read the password, or pose as the broker."""
    given = {name: str(value).lower() for name, value in properties.items()}
    if given.get("security.protocol") == "sasl_plaintext":
        yield warning(
            "security.protocol is sasl_plaintext: credentials and messages travel unencrypted",
            "use a TLS listener: -X security.protocol=sasl_ssl",
        )
    if given.get("enable.ssl.certificate.verification") == "false":
        yield warning(
            "enable.ssl.certificate.verification is false: anybody can pose as the broker",
            "remove it, and give the authority's certificate with -X ssl.ca.location=FILE",
        )
    elif given.get("ssl.endpoint.identification.algorithm") == "none":
        yield warning(
            "ssl.endpoint.identification.algorithm is none: any host whose certificate your"
            " authority signed can pose as the broker",
            "remove it, and let the brokers' certificates name their hosts",
        )


def producer_properties(answer: tuple[Mapping[str, object], str | None]) -> Iterator[Verdict]:
    """Judge the properties of the relay's producer; with what librdkafka says of them."""
    properties, complaint = answer
    if complaint:
        advice = "`outbox-relay config show` says where each property came from"
        yield failed(complaint, "" if "pip install" in complaint else advice)
    if str(properties.get("allow.auto.create.topics", "")).lower() == "true":
        yield warning(
            "allow.auto.create.topics is true: a misspelt topic is created with the broker's"
            " defaults, and nobody reads it",
            "create topics yourself and remove the property",
        )
    limit = str(properties.get("message.max.bytes", ""))
    if limit.isdecimal() and int(limit) < MAX_MESSAGE_BYTES:
        yield warning(
            f"message.max.bytes is {limit}, and Outbox.add takes messages of"
            f" {MAX_MESSAGE_BYTES} bytes: one between the two would be held",
            f"raise message.max.bytes, or write with Outbox(max_message_bytes={limit})",
        )


def _try_properties(patient: Patient) -> tuple[Mapping[str, object], str | None]:
    try:
        patient.broker().try_properties()
    except (ConfigurationError, MissingExtra) as error:
        return patient.settings.kafka, str(error)
    return patient.settings.kafka, None


CHECKS = (
    check(
        "libraries",
        "configuration",
        looks_at="versions of confluent-kafka, psycopg and SQLAlchemy with known faults",
        advice="upgrade the library",
        probe=lambda _: installed(*_OLDEST),
        judge=old_libraries,
        well=_said,
    ),
    check(
        "secrets",
        "configuration",
        looks_at="passwords on the command line, where every user of the machine can read them",
        advice="give them by a variable or a file",
        probe=lambda patient: patient.settings.found,
        judge=open_secrets,
        well="no password came by a flag",
    ),
    check(
        "kafka-properties",
        "configuration",
        looks_at="librdkafka's properties: unknown ones, automatic topics, `message.max.bytes`",
        advice="mend the property that is named",
        probe=_try_properties,
        judge=producer_properties,
        well="the producer takes all properties; acks=all and the idempotence are the relay's own",
    ),
    check(
        "encryption",
        "configuration",
        looks_at="credentials that travel to the broker unencrypted, certificates not verified",
        advice="use `security.protocol=sasl_ssl` and verify certificates",
        probe=lambda patient: (patient.broker(), patient.settings.kafka)[1],
        judge=open_traffic,
        well="no credentials travel unencrypted, certificates are verified",
    ),
)
