"""The relay as a process, with a real database, Kafka and registry: what others read in the end."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import jsonschema
import psycopg
import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from cloudevents.core.formats.json import JSONFormat

from outbox import Message, Outbox, Topic
from outbox.inbox import from_kafka
from outbox.migrations import migrate
from tests.acceptance.command import Commands
from tests.payloads.records import AVRO, JSON_SCHEMA, PROTO, new_topic
from tests.servers.foreign_readers import java_reads_avro, protoc_compiles, protoc_reads
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer
    from tests.servers.registry import SchemaRegistry

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]


@dataclass
class Line:
    sku: str
    count: int


@dataclass
class OrderPlaced:
    id: UUID
    total: Decimal
    placed_at: datetime
    lines: list[Line]
    note: str | None = None


ORDER = OrderPlaced(
    UUID("019aa1e0-0000-7000-8000-0000000000ff"),
    Decimal("12.50"),
    datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    [Line("straße", 2)],
)

AVRO_LIMIT = 20_000  # bytes

FILE = """
{first}
[registry]
url = "{registry}"
timeout = {timeout}

[topics."{topic}-avro"]
encode = "avro"
schema = "order.avsc"
register = true

[topics."{topic}-proto"]
encode = "protobuf"
schema = "order.desc"
message = "shop.OrderPlaced"
register = true

[topics."{topic}-json"]
encode = "json-schema"
schema = "order.json"
register = true
"""


@dataclass
class Shop:
    """An application's database, its topics, and the relay's command."""

    url: str
    kafka: KafkaServer
    registry: SchemaRegistry
    directory: Path
    commands: Commands
    topic: str

    def topics(self) -> list[Topic[OrderPlaced]]:
        return [
            Topic(f"{self.topic}-{kind}", OrderPlaced, type="order.placed", key=lambda o: o.id)
            for kind in ("avro", "proto", "json", "plain")
        ]

    def configure(self, first: str = "", timeout_s: float = 20.0) -> None:
        text = FILE.format(
            first=first, registry=self.registry.url, topic=self.topic, timeout=timeout_s
        )
        (self.directory / "outbox.toml").write_text(text)

    def write(self, *messages: Message) -> None:
        with psycopg.connect(self.url) as connection:
            Outbox().add_all(connection, messages)

    def read(self, kind: str) -> list[Any]:
        return list(self.kafka.read(f"{self.topic}-{kind}"))

    def held(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.commands("held", "list", "--json").json["messages"]
        return messages

    def foreign(self, payload: bytes) -> tuple[str, bytes]:
        """Return a schema by the number in front of a payload, and what stands behind that."""
        return self.registry.schema(int.from_bytes(payload[1:5])), payload[5:]


@pytest.fixture
def shop(postgresql_url: str, kafka: KafkaServer, registry: SchemaRegistry, tmp_path: Path) -> Shop:
    migrate(postgresql_url)
    base = new_topic()
    for kind in ("avro", "proto", "json", "plain"):
        limit = {"max_message_bytes": str(AVRO_LIMIT)} if kind == "avro" else {}
        kafka.create_topic(f"{base}-{kind}", partitions=1, **limit)
    (tmp_path / "order.avsc").write_text(AVRO)
    (tmp_path / "order.json").write_text(JSON_SCHEMA)
    (tmp_path / "order.proto").write_text(PROTO)
    protoc_compiles(tmp_path, "order.proto", tmp_path / "order.desc")
    commands = Commands(tmp_path, postgresql_url)
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
    made = Shop(postgresql_url, kafka, registry, tmp_path, commands, base)
    made.configure()
    return made


def test_each_format_arrives_and_foreign_readers_read_it(shop: Shop) -> None:
    # Given typed orders, a tombstone, and bytes that somebody encoded already, for every format
    for topic in shop.topics():
        shop.write(
            Message(topic, ORDER),
            Message(topic, None, key=ORDER.id),
            Message(topic.name, b"\0raw", key="raw"),
        )
    # When the relay has sent all of it
    done = shop.commands("run", "--drain")
    assert done.code == 0, done.err
    # Then Java reads Avro
    (avro, *_), (proto, *_), (schema_json, *_), (plain, *_) = (
        shop.read(kind) for kind in ("avro", "proto", "json", "plain")
    )
    schema, data = shop.foreign(avro.value())
    assert java_reads_avro(schema, data)["lines"] == [{"sku": "straße", "count": 2}]
    # And protoc Protobuf
    _, data = shop.foreign(proto.value())
    read = protoc_reads(shop.directory, "order.proto", "shop.OrderPlaced", data[2:])
    assert 'total: "12.50"' in read
    assert "nanos: 6000" in read
    # And jsonschema JSON
    schema, data = shop.foreign(schema_json.value())
    jsonschema.validate(json.loads(data), json.loads(schema))
    # And what has no rule is the JSON of the contract
    assert json.loads(plain.value())["total"] == "12.50"
    types = {
        "avro": b"application/vnd.apache.avro+binary",
        "proto": b"application/x-protobuf",
        "json": b"application/schema-instance+json",
        "plain": b"application/json",
    }
    for kind, content_type in types.items():
        order, tombstone, raw = shop.read(kind)
        assert dict(order.headers())["content-type"] == content_type
        assert from_kafka(order).type == "order.placed"
        assert (tombstone.key().decode(), tombstone.value()) == (str(ORDER.id), None)
        assert "content-type" not in dict(tombstone.headers())
        assert raw.value() == b"\0raw"
    # And Python's JSON comes back as what was written
    *_, json_topic, plain_topic = shop.topics()
    assert plain_topic.decode(from_kafka(plain)) == ORDER
    assert json_topic.decode(from_kafka(schema_json)) == ORDER


def test_cloudevents_carry_what_is_encoded(shop: Shop) -> None:
    shop.configure(first='cloudevents = "binary"\ncloudevents_source = "/shop"')
    avro, *_, plain = shop.topics()
    message = Message(plain, ORDER)
    shop.write(Message(avro, ORDER), message, Message(plain, None, key=ORDER.id))

    assert shop.commands("run", "--drain").code == 0

    arrived, tombstone = shop.read("plain")
    event = from_binary_event(_as_event(arrived), JSONFormat())
    assert (event.get_id(), event.get_type()) == (str(message.id), "order.placed")
    assert event.get_source() == "/shop"
    assert event.get_extension("partitionkey") == str(ORDER.id)
    assert tombstone.value() is None
    assert from_kafka(arrived).id == str(message.id)
    (encoded,) = shop.read("avro")
    event = from_binary_event(_as_event(encoded), JSONFormat())
    assert event.get_datacontenttype() == "application/vnd.apache.avro+binary"
    assert from_kafka(encoded).position is not None


def _as_event(arrived: Any) -> KafkaMessage:
    return KafkaMessage(
        headers=dict(arrived.headers()), key=arrived.key(), value=arrived.value() or b""
    )


def test_what_the_schema_does_not_take_is_held_with_what_and_where(shop: Shop) -> None:
    # Given a payload that does not fit, among others, and one behind it in its key
    avro, *_ = shop.topics()
    wrong = Message(avro.name, {**asdict(ORDER), "total": "12.505"}, key=1)
    behind = Message(avro, ORDER, key=1)
    shop.write(Message(avro, ORDER), wrong, behind, Message(avro, ORDER))
    # When all of it is to be delivered
    done = shop.commands("run", "--drain")
    # Then it is said which message and field are at fault, and that not all has gone
    assert done.code == 6, done.err
    message = f"message {wrong.id} for topic '{avro.name}' cannot be encoded as avro"
    field = f"order.avsc, subject {avro.name}-value): payload.total: '12.505'"
    assert message in done.err
    assert field in done.err
    assert done.err.count("\n") < 6, done.err
    # And so says the list of what is held, with what waits for it
    held, blocked = shop.held()
    assert (held["id"], held["state"]) == (str(wrong.id), "retrying")
    assert held["fault"] == "message"
    assert held["attempts"] >= 1  # it may have been tried again before the drain was done
    assert message in held["error"]
    assert field in held["error"]
    assert (blocked["id"], blocked["state"]) == (str(behind.id), "blocked")
    # And other keys have gone
    assert [arrived.key().decode() for arrived in shop.read("avro")] == [str(ORDER.id)] * 2


def test_a_registry_that_is_away_holds_its_topics_alone_until_it_is_back(shop: Shop) -> None:
    avro, *_, plain = shop.topics()
    # Given a relay whose registry hangs
    shop.configure(timeout_s=0.5)
    shop.registry.pause()
    try:
        with shop.commands.start("run") as relay:
            relay.says("holds the lane")
            shop.write(Message(plain, ORDER))
            wait_until(lambda: shop.read("plain"), what="a message that needs no schema")
            waiting = [Message(avro, ORDER) for _ in range(5)]
            shop.write(*waiting)
            # Then it says so, with the topic's and the registry's name, and holds the messages
            away = f"the schema registry {shop.registry.url} cannot be reached"
            relay.says(f"topic '{avro.name}': {away}")
            wait_until(lambda: len(shop.held()) == len(waiting), what="the messages to be held")
            first, *others = shop.held()
            assert (first["state"], first["fault"], first["attempts"]) == ("retrying", "topic", 0)
            assert away in first["error"]
            assert {message["state"] for message in others} == {"blocked"}
            # And topics without a schema flow
            shop.write(Message(plain, ORDER))
            wait_until(lambda: len(shop.read("plain")) == 2, what="another that needs no schema")
            # When the registry is back
            shop.registry.resume()
            # Then they go by themselves, in order, and what is added now goes behind them
            relay.says(f"topic '{avro.name}' is there again")
            waiting.append(Message(avro, ORDER))
            shop.write(waiting[-1])
            wait_until(lambda: len(shop.read("avro")) >= len(waiting), what="all to arrive")
            arrived = [from_kafka(message).id for message in shop.read("avro")]
            assert arrived == [str(message.id) for message in waiting]
            assert shop.held() == []
    finally:
        shop.registry.resume()


def test_the_encoded_size_counts_against_the_topics_limit(shop: Shop) -> None:
    # Given an order whose JSON is larger than the topic takes, while as Avro it is not
    avro, *_ = shop.topics()
    small = replace(ORDER, lines=[Line("", 1)] * (AVRO_LIMIT // 10))
    shop.write(Message(avro, small))
    assert len(Outbox()._row(Message(avro, small))["payload"]) > AVRO_LIMIT  # type: ignore[arg-type]  # bytes
    assert shop.commands("run", "--drain").code == 0
    assert len(shop.read("avro")) == 1
    # When another one is too large as Avro too
    large = Message(avro, replace(ORDER, lines=[Line("", 1)] * AVRO_LIMIT))
    shop.write(large)
    done = shop.commands("run", "--drain")
    # Then it is refused before it is sent, and held
    assert done.code == 6, done.err
    assert f"too large for topic '{avro.name}'" in done.err
    (held,) = shop.held()
    assert (held["id"], held["state"], held["fault"]) == (str(large.id), "retrying", "message")
    assert f"too large for topic '{avro.name}'" in held["error"]
    assert len(shop.read("avro")) == 1
