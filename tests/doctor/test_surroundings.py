"""Faults of settings, libraries and tracing, planted and found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from outbox.doctor.rights import required_rights
from outbox.names import Names
from outbox.schema.grants import WRITER_COLUMNS
from outbox.store.diagnosis import Right
from tests.doctor.installation import Installation


def install(directory: Path, name: str, version: str, *requires: str) -> None:
    """Make a distribution look installed."""
    place = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    (place / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a place for distributions that stand before the installed ones."""
    place = tmp_path / "packages"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    return place


# Settings


def test_a_password_on_the_command_line(on_sqlite: Installation) -> None:
    report = on_sqlite.doctor("-X", "sasl.password=hunter2")

    assert report.outcome("secrets") == "warning"
    assert "flag -X" in report.only("secrets")["found"]
    assert "OUTBOX_KAFKA_SASL_PASSWORD_FILE" in report.only("secrets")["advice"]
    assert "hunter2" not in str(report.findings)


@pytest.mark.postgresql
def test_a_database_password_on_the_command_line(installation: Installation) -> None:
    installation.url = installation.url.replace("postgres@", "postgres:hunter2@")

    report = installation.doctor()

    assert "database_url came by flag --database-url" in report.only("secrets")["found"]
    assert "hunter2" not in str(report.findings)


def test_a_password_in_a_variable_is_fine(
    on_sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTBOX_KAFKA_SASL_PASSWORD", "hunter2")
    assert on_sqlite.doctor().outcome("secrets") == "ok"


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        (["security.protocol=sasl_plaintext"], "travel unencrypted"),
        (["enable.ssl.certificate.verification=false"], "anybody can pose as the broker"),
        (["ssl.endpoint.identification.algorithm=none"], "any host whose certificate"),
    ],
)
def test_traffic_that_others_can_read_or_forge(
    on_sqlite: Installation, properties: list[str], words: str
) -> None:
    given = [word for each in properties for word in ("-X", each)]
    report = on_sqlite.doctor(
        *("-X", "bootstrap.servers=127.0.0.1:1", "--connect-timeout", "0.2", *given)
    )
    assert words in report.only("encryption")["found"]


def test_a_callback_that_cannot_be_imported(on_sqlite: Installation) -> None:
    on_sqlite.bootstrap = "127.0.0.1:1"
    report = on_sqlite.doctor("-X", "oauth_cb=nowhere:token")
    assert report.outcome("kafka-properties") == "failed"
    assert "'nowhere:token' cannot be imported" in report.only("kafka-properties")["found"]


# Libraries


def test_a_broker_without_its_client(
    on_sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    on_sqlite.bootstrap = "127.0.0.1:1"

    report = on_sqlite.doctor()

    assert report.outcome("kafka-properties") == "failed"
    assert 'pip install "outbox-relay[kafka]"' in report.only("kafka-properties")["found"]
    assert report.outcome("relay-served") == "ok"


def test_a_library_with_known_faults(on_sqlite: Installation, packages: Path) -> None:
    install(packages, "confluent-kafka", "2.13.0")

    report = on_sqlite.doctor()

    assert report.outcome("libraries") == "warning"
    assert "confluent-kafka 2.13.0" in report.only("libraries")["found"]
    assert 'pip install --upgrade "confluent-kafka>=2.14.2"' in report.only("libraries")["advice"]


@pytest.mark.parametrize(
    ("version", "requires"),
    [
        ("0.48b0", 'confluent-kafka<=2.4.0,>=1.8.2; extra == "instruments"'),
        ("0.66b1", "opentelemetry-instrumentation==0.1b0"),
    ],
)
def test_an_instrumentation_that_does_not_fit(
    on_sqlite: Installation, packages: Path, version: str, requires: str
) -> None:
    """What pip makes of an SDK and the Kafka instrumentation, without a word."""
    install(packages, "opentelemetry-instrumentation-confluent-kafka", version, requires)

    report = on_sqlite.doctor()

    found = report.only("opentelemetry-versions")
    assert found["outcome"] == "warning"
    assert f"opentelemetry-instrumentation-confluent-kafka {version} needs" in found["found"]


# Tracing


def test_an_instrumentation_that_is_active_is_said(on_sqlite: Installation) -> None:
    assert "not active here" in on_sqlite.doctor().only("kafka-instrumentor")["found"]
    ConfluentKafkaInstrumentor().instrument()
    try:
        found = on_sqlite.doctor().only("kafka-instrumentor")
    finally:
        ConfluentKafkaInstrumentor().uninstrument()

    assert found["outcome"] == "ok"
    assert "the relay goes round it" in found["found"]


def test_an_sdk_without_an_exporter(
    on_sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = TracerProvider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    assert on_sqlite.doctor().outcome("trace-export") == "warning"

    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    assert on_sqlite.doctor().outcome("trace-export") == "ok"


def test_variables_for_an_sdk_that_is_not_there(
    on_sqlite: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")

    report = on_sqlite.doctor()

    assert report.outcome("trace-export") == "warning"
    assert "OTEL_EXPORTER_OTLP_ENDPOINT is set" in report.only("trace-export")["found"]


# What is taken from the GRANT statements


def test_every_grant_is_understood() -> None:
    writer = required_rights(Names("events", "shop_"), "events", "writer")
    relay = required_rights(Names(), "public", "relay")

    log = '"events"."shop_outbox_message"'
    assert {Right("table", log, "insert", column) for column in WRITER_COLUMNS} <= set(writer)
    assert Right("schema", '"events"', "usage") in writer
    assert Right("function", '"events"."shop_outbox_slot"()', "execute") in writer
    assert Right("table", '"outbox_meta"', "update", "timeline") in relay
    assert Right("table", '"outbox_cursor"', "delete") in relay
    assert Right("sequence", '"outbox_message_seq"', "select") in relay
