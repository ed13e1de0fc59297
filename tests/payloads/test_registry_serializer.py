"""Encoding where a message is written: strict, and without ever changing the registry."""

from __future__ import annotations

import io
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import avro.io
import avro.schema
import pytest

from outbox import Message, Outbox, PayloadNotSerializable, Topic
from outbox.encoding import Encodings, RegistrySerializer, RegistryUnavailable, TopicRule
from outbox.encoding.registry import SchemaRegistry as Client
from outbox.headers import user_headers
from outbox.migrations import migrate
from tests.payloads.records import AVRO, ORDER, new_topic, record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.registry import SchemaRegistry


@dataclass
class Money:
    total: Decimal


MONEY = (
    '{"type":"record","name":"Money","fields":[{"name":"total","type":'
    '{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}}]}'
)


@pytest.fixture
def topic(registry: SchemaRegistry) -> str:
    name = new_topic()
    registry.register(f"{name}-value", MONEY)
    return name


@pytest.fixture
def serializer(registry: SchemaRegistry) -> Iterator[RegistrySerializer]:
    with closing(RegistrySerializer({"url": registry.url}, encode="avro")) as made:
        yield made


def read(registry: SchemaRegistry, payload: bytes) -> Any:
    schema = registry.schema(int.from_bytes(payload[1:5]))
    decoder = avro.io.BinaryDecoder(io.BytesIO(payload[5:]))
    return avro.io.DatumReader(avro.schema.parse(schema)).read(decoder)


def test_an_outbox_writes_what_the_schema_of_the_topic_asks_for(
    registry: SchemaRegistry, serializer: RegistrySerializer, topic: str, tmp_path: Path
) -> None:
    # Given a log, and an Outbox with the serializer
    migrate(f"sqlite:///{tmp_path / 'log.db'}")
    events = Outbox(serializer=serializer)
    # When it writes
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        with connection:
            connection.execute("begin")
            events.add(connection, topic, Money(Decimal("12.5")), key=1)
            events.add(connection, topic, None, key=1)
        rows = connection.execute("select payload, content_type from outbox_message order by seq")
        (payload, content_type), tombstone = rows.fetchall()
    # Then the log holds what a foreign reader reads, and the relay leaves it alone
    assert read(registry, payload) == {"total": Decimal("12.50")}
    assert tombstone == (None, None)
    with closing(Encodings((TopicRule(topic, "avro"),), {"url": registry.url})) as encodings:
        sent = record(topic, payload, content_type=content_type)
        assert encodings.apply(sent) is sent


def test_a_topic_may_have_it_alone(
    registry: SchemaRegistry, serializer: RegistrySerializer, topic: str
) -> None:
    message = Message(Topic(topic, Money, serializer=serializer), Money(Decimal(1)), key=1)

    assert read(registry, message.payload) == {"total": Decimal("1.00")}
    assert message.content_type == "application/vnd.apache.avro+binary"


def test_a_payload_that_does_not_fit_is_refused_in_the_callers_code(
    serializer: RegistrySerializer, topic: str
) -> None:
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(PayloadNotSerializable) as caught,
    ):
        Outbox(serializer=serializer).add(connection, topic, Money(Decimal("1.234")), key=1)

    said = str(caught.value)
    assert said.startswith(
        f"topic '{topic}' (subject {topic}-value, newest version): payload.total"
    )


def test_nothing_is_registered(registry: SchemaRegistry, tmp_path: Path) -> None:
    name = new_topic()
    (tmp_path / "money.avsc").write_text(MONEY)
    serializer = RegistrySerializer(
        {"url": registry.url}, encode="avro", schema=str(tmp_path / "money.avsc")
    )
    with closing(serializer), pytest.raises(RegistryUnavailable, match="does not have this schema"):
        serializer.load(name)

    assert f"{name}-value" not in registry.ask("subjects")


def test_once_loaded_no_transaction_waits_for_the_registry(
    registry: SchemaRegistry,
    serializer: RegistrySerializer,
    topic: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given an application that has loaded its schemas
    serializer.load(topic)
    # When the registry hangs, a year later
    serializer._registry._clock = lambda: 366 * 86_400.0 + time.monotonic()
    registry.pause()
    try:
        # Then it goes on writing
        message = Message(Topic(topic, Money, serializer=serializer), Money(Decimal(1)), key=1)
    finally:
        registry.resume()
    assert caplog.messages == []  # it would say that it asked in vain
    assert read(registry, message.payload) == {"total": Decimal("1.00")}


def test_the_schemas_guid_goes_into_a_header_where_the_registry_gives_one(tmp_path: Path) -> None:
    # Given a registry that gives GUIDs: Confluent's, in memory, for its own tests
    from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroDeserializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    mock = SchemaRegistryClient.new_client({"url": "mock://"})
    mock.register_schema("orders-value", Schema(AVRO, "AVRO"))
    rule = TopicRule("orders", "avro", schema_id="header")
    encodings = Encodings((rule,), {"url": "http://127.0.0.1:9"})
    assert isinstance(encodings._registry, Client)
    encodings._registry._client = mock
    # When an order goes out
    sent = encodings.apply(record("orders", ORDER, headers='{"tenant":"a"}'))
    # Then Confluent's deserializer reads it by the header, and the user's header is there too
    assert sent.headers is not None
    headers = user_headers(sent.headers)
    assert dict(headers)["tenant"] == b"a"
    assert sent.payload is not None
    assert sent.payload[0] != 0
    context = SerializationContext("orders", MessageField.VALUE, headers)
    read_back: Any = AvroDeserializer(mock)(sent.payload, context)
    assert read_back["total"] == Decimal("12.50")
