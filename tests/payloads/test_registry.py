"""Payloads go out by the schemas of a real registry, and programs of others read them."""

from __future__ import annotations

import io
import json
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import avro.io
import avro.schema
import jsonschema
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from outbox import Topic
from outbox.encoding import Encodings, RegistryUnavailable, TopicRule
from outbox.encoding.misfit import Misfit
from outbox.encoding.registry import SchemaRegistry as Client
from outbox.errors import ConfigurationError
from outbox.inbox import ReceivedMessage
from tests.payloads.records import AVRO, JSON_SCHEMA, ORDER, PROTO, new_topic, record
from tests.servers.foreign_readers import java_reads_avro, protoc_compiles, protoc_reads

if TYPE_CHECKING:
    from outbox.record import Record
    from tests.servers.registry import SchemaRegistry


@pytest.fixture
def avsc(tmp_path: Path) -> str:
    return _written(tmp_path / "order.avsc", AVRO)


@pytest.fixture
def descriptor_set(tmp_path: Path) -> str:
    _written(tmp_path / "order.proto", PROTO)
    protoc_compiles(tmp_path, "order.proto", tmp_path / "order.desc")
    return str(tmp_path / "order.desc")


def _written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def encoded(registry: SchemaRegistry, rule: TopicRule, payload: object = ORDER) -> Record:
    with closing(Encodings((rule,), {"url": registry.url})) as encodings:
        return encodings.apply(record(rule.topic, payload))


def unframed(registry: SchemaRegistry, payload: bytes | None) -> tuple[str, bytes]:
    """Return the schema that the number in front names, and what stands behind that."""
    assert payload is not None
    assert payload[0] == 0
    return registry.schema(int.from_bytes(payload[1:5])), payload[5:]


def python_reads_avro(schema: str, data: bytes) -> Any:
    """Return what Apache's Avro for Python makes of bytes; we encode by another library."""
    reader = avro.io.DatumReader(avro.schema.parse(schema))
    return reader.read(avro.io.BinaryDecoder(io.BytesIO(data)))


# Avro


def test_javas_avro_reads_what_went_out_as_avro(registry: SchemaRegistry, avsc: str) -> None:
    # Given a topic whose schema the relay may register
    rule = TopicRule(new_topic(), "avro", schema=avsc, register=True)
    # When an order goes out
    sent = encoded(registry, rule)
    # Then Java reads it by the schema that the registry has
    schema, data = unframed(registry, sent.payload)
    read = java_reads_avro(schema, data)
    assert int.from_bytes(read["total"].encode("latin-1"), signed=True) == 1250
    assert read["lines"] == [{"sku": "straße", "count": 2}]
    assert (read["id"], read["note"]) == (ORDER["id"], None)
    moment = datetime.fromisoformat(str(ORDER["placed_at"]))
    assert read["placed_at"] == int(moment.timestamp()) * 1_000_000 + 6
    assert sent.content_type == "application/vnd.apache.avro+binary"


def test_apaches_avro_for_python_reads_the_logical_types(
    registry: SchemaRegistry, avsc: str
) -> None:
    sent = encoded(registry, TopicRule(new_topic(), "avro", schema=avsc, register=True))

    read = python_reads_avro(*unframed(registry, sent.payload))
    assert (read["id"], read["total"]) == (ORDER["id"], Decimal("12.50"))
    assert read["placed_at"] == datetime.fromisoformat(str(ORDER["placed_at"]))


def test_a_topic_takes_what_a_deserializer_has_made_of_avro(
    registry: SchemaRegistry, avsc: str
) -> None:
    @dataclass
    class Order:
        id: UUID
        total: Decimal
        placed_at: datetime

    sent = encoded(registry, TopicRule(new_topic(), "avro", schema=avsc, register=True))
    received = ReceivedMessage("1", sent.topic, 0, 0, payload=sent.payload)
    with SchemaRegistryClient({"url": registry.url}) as client:
        context = SerializationContext(sent.topic, MessageField.VALUE)
        value = AvroDeserializer(client)(sent.payload, context)

    moment = datetime.fromisoformat(str(ORDER["placed_at"]))
    order = Topic(sent.topic, Order).convert(value, received)
    assert order == Order(UUID(str(ORDER["id"])), Decimal("12.50"), moment)


def test_without_a_schema_of_its_own_a_rule_takes_the_registrys_newest(
    registry: SchemaRegistry,
) -> None:
    # Given a subject with two versions, of which the second has one more field
    topic = new_topic()
    old = registry.register(f"{topic}-value", AVRO)
    newer = json.loads(AVRO)
    newer["fields"].append({"name": "more", "type": "int", "default": 5})
    new = registry.register(f"{topic}-value", json.dumps(newer))
    # When messages go out by the newest, and by the first version
    newest = encoded(registry, TopicRule(topic, "avro"), ORDER | {"more": 7})
    first = encoded(registry, TopicRule(topic, "avro", version=1))
    # Then each names its schema
    assert newest.payload is not None
    assert first.payload is not None
    assert int.from_bytes(newest.payload[1:5]) == new
    assert int.from_bytes(first.payload[1:5]) == old
    assert python_reads_avro(*unframed(registry, newest.payload))["more"] == 7


def test_a_newer_schema_is_found_while_the_relay_runs(registry: SchemaRegistry) -> None:
    # Given a relay that has sent by the first version, and looks for newer ones at every message
    topic = new_topic()
    registry.register(f"{topic}-value", AVRO)
    properties = {"url": registry.url, "cache.latest.ttl.sec": 0}
    with closing(Encodings((TopicRule(topic, "avro"),), properties)) as encodings:
        encodings.apply(record(topic, ORDER))
        with pytest.raises(Misfit, match=r"record shop.OrderPlaced has no such field"):
            encodings.apply(record(topic, ORDER | {"more": 7}))
        # When a version with the field is registered
        newer = json.loads(AVRO)
        newer["fields"].append({"name": "more", "type": "int", "default": 5})
        number = registry.register(f"{topic}-value", json.dumps(newer))
        # Then the message can go out
        sent = encodings.apply(record(topic, ORDER | {"more": 7}))
    assert sent.payload is not None
    assert int.from_bytes(sent.payload[1:5]) == number


def test_subjects_follow_the_strategy(registry: SchemaRegistry, avsc: str) -> None:
    for strategy, subject in (
        ("topic", "{topic}-value"),
        ("record", "shop.OrderPlaced"),
        ("topic-record", "{topic}-shop.OrderPlaced"),
    ):
        topic = new_topic()
        rule = TopicRule(topic, "avro", schema=avsc, register=True, subject_strategy=strategy)  # type: ignore[arg-type]  # one of them
        encoded(registry, rule)
        assert subject.format(topic=topic) in registry.ask("subjects")


def test_a_type_of_messages_has_a_schema_of_its_own(registry: SchemaRegistry, avsc: str) -> None:
    topic = new_topic()
    registry.register("cancelled", '{"type":"record","name":"C","fields":[]}')
    rule = TopicRule(
        topic,
        "avro",
        schema=avsc,
        register=True,
        types=(("order.cancelled", TopicRule(topic, "avro", subject="cancelled")),),
    )
    with closing(Encodings((rule,), {"url": registry.url})) as encodings:
        placed = encodings.apply(record(topic, ORDER, type="order.placed"))
        cancelled = encodings.apply(record(topic, {}, type="order.cancelled"))

    assert json.loads(unframed(registry, placed.payload)[0])["name"] == "OrderPlaced"
    assert json.loads(unframed(registry, cancelled.payload)[0])["name"] == "C"


def test_one_type_of_messages_may_be_the_only_one_that_is_encoded(
    registry: SchemaRegistry, avsc: str
) -> None:
    topic = new_topic()
    placed = TopicRule(topic, "avro", schema=avsc, register=True)
    rule = TopicRule(topic, "none", types=(("order.placed", placed),))
    with closing(Encodings((rule,), {"url": registry.url})) as encodings:
        assert encodings.apply(record(topic, ORDER, type="order.placed")).payload[:1] == b"\0"  # type: ignore[index]  # it has one
        other = record(topic, ORDER, type="order.paid")
        assert encodings.apply(other) is other


def test_schemas_that_others_refer_to_are_fetched_too(registry: SchemaRegistry) -> None:
    topic = new_topic()
    line = {"type": "record", "name": "Line", "namespace": "shop", "fields": []}
    line["fields"] = [{"name": "price", "type": json.loads(AVRO)["fields"][1]["type"]}]
    registry.register(f"{topic}-line", json.dumps(line))
    outer = '{"type":"record","name":"O","fields":[{"name":"line","type":"shop.Line"}]}'
    reference = {"name": "shop.Line", "subject": f"{topic}-line", "version": 1}
    registry.ask(
        f"subjects/{topic}-value/versions",
        {"schema": outer, "schemaType": "AVRO", "references": [reference]},
    )

    sent = encoded(registry, TopicRule(topic, "avro"), {"line": {"price": "1.20"}})

    _, data = unframed(registry, sent.payload)
    inlined = outer.replace('"shop.Line"', json.dumps(line))
    assert python_reads_avro(inlined, data)["line"]["price"] == Decimal("1.20")


# Protobuf


def test_protoc_reads_what_went_out_as_protobuf(
    registry: SchemaRegistry, descriptor_set: str, tmp_path: Path
) -> None:
    # Given a schema that somebody registered as text, and its compiled form
    topic = new_topic()
    number = registry.register(f"{topic}-value", PROTO, "PROTOBUF")
    rule = TopicRule(
        topic, "protobuf", schema=descriptor_set, message="shop.OrderPlaced", version=1
    )
    # When an order goes out
    sent = encoded(registry, rule)
    # Then protoc reads it by the text that the registry has, behind the message's place in it
    schema, data = unframed(registry, sent.payload)
    assert sent.payload is not None
    assert int.from_bytes(sent.payload[1:5]) == number
    assert data[:2] == bytes([2, 2])  # one step, to the second message; each as a zigzag number
    _written(tmp_path / "theirs.proto", schema)
    read = protoc_reads(tmp_path, "theirs.proto", "shop.OrderPlaced", data[2:])
    assert f'id: "{ORDER["id"]}"' in read
    assert "nanos: 6000" in read
    assert "count: 2" in read
    assert sent.content_type == "application/x-protobuf"


def test_a_protobuf_schema_is_registered_and_then_taken_from_the_registry(
    registry: SchemaRegistry, descriptor_set: str, tmp_path: Path
) -> None:
    # Given a relay that may register, and one that has no file
    topic = new_topic()
    name = "shop.OrderPlaced"
    first = TopicRule(topic, "protobuf", schema=descriptor_set, message=name, register=True)
    # When both send
    registered = encoded(registry, first)
    looked_up = encoded(registry, TopicRule(topic, "protobuf", schema=descriptor_set, message=name))
    found = encoded(registry, TopicRule(topic, "protobuf", message=name))
    # Then they agree to the byte
    assert registered.payload == looked_up.payload == found.payload
    _, data = unframed(registry, found.payload)
    assert "count: 2" in protoc_reads(tmp_path, "order.proto", name, data[2:])


def test_a_message_within_another_is_numbered_by_all_around_it(
    registry: SchemaRegistry, descriptor_set: str, tmp_path: Path
) -> None:
    name = "shop.OrderPlaced.Line"
    line = {"sku": "a", "count": 3}
    rule = TopicRule(new_topic(), "protobuf", schema=descriptor_set, message=name, register=True)

    registered = encoded(registry, rule, line)
    found = encoded(registry, TopicRule(rule.topic, "protobuf", message=name), line)

    assert registered.payload == found.payload
    _, data = unframed(registry, found.payload)
    assert data[:3] == bytes([4, 2, 0])  # two steps: the second message, the first within it
    assert "count: 3" in protoc_reads(tmp_path, "order.proto", name, data[3:])


def test_a_generated_class_is_a_schema_too(registry: SchemaRegistry) -> None:
    rule = TopicRule(
        new_topic(),
        "protobuf",
        schema="google.protobuf.timestamp_pb2:Timestamp",
        register=True,
    )

    _, data = unframed(registry, encoded(registry, rule, "1970-01-01T00:00:05Z").payload)

    assert data == bytes([0, 0x08, 5])  # the first message; field 1, seconds


def test_a_schema_as_text_asks_for_its_compiled_form(registry: SchemaRegistry) -> None:
    topic = new_topic()
    registry.register(f"{topic}-value", PROTO, "PROTOBUF")

    with pytest.raises(ConfigurationError, match="gives this schema as text; compile it with"):
        encoded(registry, TopicRule(topic, "protobuf"))


# JSON Schema


def test_jsonschema_accepts_what_went_out_by_a_json_schema(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    path = _written(tmp_path / "order.json", JSON_SCHEMA)
    rule = TopicRule(new_topic(), "json-schema", schema=path, register=True)

    sent = encoded(registry, rule)

    schema, data = unframed(registry, sent.payload)
    jsonschema.validate(json.loads(data), json.loads(schema))
    assert json.loads(data) == ORDER
    assert "straße".encode() in data
    assert sent.content_type == "application/schema-instance+json"


# What does not fit


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"total": "12.505"}, "payload.total: '12.505' is not a decimal(9, 2)"),
        ({"placed_at": "2026-01-02"}, "payload.placed_at: '2026-01-02' is not a date and time"),
        ({"lines": [{"sku": "a"}]}, "payload.lines[0].count: it is missing"),
        ({"colour": "red"}, "payload.colour: record shop.OrderPlaced has no such field"),
    ],
)
def test_avro_refuses_with_the_field(
    registry: SchemaRegistry, avsc: str, change: dict[str, Any], sentence: str
) -> None:
    rule = TopicRule("orders-refused", "avro", schema=avsc, register=True)

    with pytest.raises(Misfit) as caught:
        encoded(registry, rule, ORDER | change)
    assert sentence in str(caught.value)


def test_the_others_refuse_with_the_field(
    registry: SchemaRegistry, descriptor_set: str, tmp_path: Path
) -> None:
    proto = TopicRule(
        new_topic(), "protobuf", schema=descriptor_set, message="shop.OrderPlaced", register=True
    )
    path = _written(tmp_path / "order.json", JSON_SCHEMA)
    checked = TopicRule(new_topic(), "json-schema", schema=path, register=True)
    lines = {"lines": [{"sku": "a", "count": "x"}]}

    with pytest.raises(Misfit, match="lines field: Failed to parse count field"):
        encoded(registry, proto, ORDER | lines)
    with pytest.raises(Misfit, match='no field named "colour"'):
        encoded(registry, proto, ORDER | {"colour": "red"})
    with pytest.raises(Misfit, match=r"payload.lines\[0\].count: 'x' is not of type 'integer'"):
        encoded(registry, checked, ORDER | lines)
    with pytest.raises(Misfit, match="null alone would become a tombstone"):
        encoded(registry, checked, b"null")


def test_what_is_not_json_and_tombstones_pass_untouched(
    registry: SchemaRegistry, avsc: str
) -> None:
    topic = new_topic()
    rule = TopicRule(topic, "avro", schema=avsc, register=True)
    with closing(Encodings((rule,), {"url": registry.url})) as encodings:
        for each in (
            record(topic, None),
            record(topic, b"\x00\x00", content_type=None),
            record(topic, b"{}", content_type="application/vnd.apache.avro+binary"),
            record(topic, b"{}", content_type="application/schema-instance+json"),
            record("another", ORDER),
        ):
            assert encodings.apply(each) is each


def test_json_of_plain_sql_is_encoded_where_the_rule_says_so(
    registry: SchemaRegistry, avsc: str
) -> None:
    topic = new_topic()
    rule = TopicRule(topic, "avro", schema=avsc, register=True, assume_json=True)
    with closing(Encodings((rule,), {"url": registry.url})) as encodings:
        sent = encodings.apply(record(topic, ORDER, content_type=None))

    assert sent.content_type == "application/vnd.apache.avro+binary"


# The registry


def test_a_registry_without_guids_is_named_when_headers_should_hold_them(
    registry: SchemaRegistry, avsc: str
) -> None:
    rule = TopicRule(new_topic(), "avro", schema=avsc, register=True, schema_id="header")

    with pytest.raises(ConfigurationError, match="this registry gives none"):
        encoded(registry, rule)


def test_a_schema_that_nobody_registered_is_waited_for(registry: SchemaRegistry, avsc: str) -> None:
    topic = new_topic()
    with pytest.raises(RegistryUnavailable, match=f"newest schema of subject '{topic}-value'"):
        encoded(registry, TopicRule(topic, "avro"))
    with pytest.raises(RegistryUnavailable, match="register it, let the relay do so"):
        encoded(registry, TopicRule(topic, "avro", schema=avsc))
    assert f"{topic}-value" not in registry.ask("subjects")


def test_an_outage_stops_only_what_needs_an_unknown_schema(registry: SchemaRegistry) -> None:
    # Given a relay that has sent to one topic, and would look for a newer schema at every message
    known, unknown = new_topic(), new_topic()
    for topic in (known, unknown):
        registry.register(f"{topic}-value", AVRO)
    rules = (TopicRule(known, "avro"), TopicRule(unknown, "avro"))
    properties = {"url": registry.url, "cache.latest.ttl.sec": 0, "timeout": 0.3}
    with closing(Encodings(rules, properties)) as encodings:
        before = encodings.apply(record(known, ORDER))
        # When the registry hangs
        registry.pause()
        try:
            # Then that topic goes on, and another one waits, with the registry's name
            assert encodings.apply(record(known, ORDER)) == before
            with pytest.raises(RegistryUnavailable, match=f"{registry.url} cannot be reached"):
                encodings.apply(record(unknown, ORDER))
        finally:
            registry.resume()
        # And when it is back
        assert encodings.apply(record(unknown, ORDER)).payload is not None


def test_a_registry_that_hangs_is_waited_for_once_and_not_for_each_topic(
    registry: SchemaRegistry,
) -> None:
    """For each, it would take longer than the lease, and the page would never be sent."""
    # Given a page's topics, whose schemas it is time to look at again
    topics = [new_topic() for _ in range(10)]
    for topic in topics:
        registry.register(f"{topic}-value", AVRO)
    now = 0.0
    with closing(Client({"url": registry.url, "timeout": 0.3}, clock=lambda: now)) as client:
        before = [client.get_latest_version(f"{topic}-value") for topic in topics]
        asked: list[str] = []
        real = client._client.get_latest_version
        client._client.get_latest_version = lambda *given: (asked.append(given[0]), real(*given))[1]
        now = 1_000.0

        # When the registry hangs
        registry.pause()
        try:
            assert [client.get_latest_version(f"{topic}-value") for topic in topics] == before
            assert len(asked) == 1
            # Then it is tried again now and then
            now += 31.0
            assert [client.get_latest_version(f"{topic}-value") for topic in topics] == before
            assert len(asked) == 2
        finally:
            registry.resume()

        # And each is looked at when it is back
        now += 31.0
        for topic in topics:
            client.get_latest_version(f"{topic}-value")
        assert len(asked) == 12


def test_a_schema_that_the_subject_does_not_take_is_a_mistake_of_configuration(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    topic = new_topic()
    registry.register(f"{topic}-value", AVRO)
    registry_config(registry, f"{topic}-value", "BACKWARD")
    other = _written(
        tmp_path / "o.avsc",
        '{"type":"record","name":"OrderPlaced","namespace":"shop",'
        '"fields":[{"name":"new","type":"int"}]}',
    )

    with pytest.raises(ConfigurationError, match="refuses the schema for subject"):
        encoded(registry, TopicRule(topic, "avro", schema=other, register=True))


def registry_config(registry: SchemaRegistry, subject: str, level: str) -> None:
    import urllib.request

    request = urllib.request.Request(
        f"{registry.url}/config/{subject}",
        data=json.dumps({"compatibility": level}).encode(),
        headers={"Content-Type": "application/vnd.schemaregistry.v1+json"},
        method="PUT",
    )
    with urllib.request.urlopen(request, timeout=10):
        pass


def test_nobody_there_is_said_with_the_registrys_name(avsc: str) -> None:
    rule = TopicRule("orders", "avro", schema=avsc)
    with (
        closing(Encodings((rule,), {"url": "http://127.0.0.1:9"})) as encodings,
        pytest.raises(
            RegistryUnavailable, match=r"registry http://127.0.0.1:9 cannot be reached: "
        ),
    ):
        encodings.apply(record("orders", ORDER))


def test_each_schema_is_asked_for_once(registry: SchemaRegistry) -> None:
    topic = new_topic()
    registry.register(f"{topic}-value", AVRO)
    with closing(Client({"url": registry.url})) as client:
        asked: list[str] = []
        real = client._client.get_latest_version
        client._client.get_latest_version = lambda *given: (asked.append(given[0]), real(*given))[1]
        for _ in range(3):
            client.get_latest_version(f"{topic}-value")

    assert asked == [f"{topic}-value"]
