"""Encoding is configured in outbox.toml and by variables, and mistakes are named."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from outbox.config.settings import Settings, load
from outbox.config.topic_rules import TopicRule, find_rule
from outbox.encoding import Encodings
from outbox.errors import ConfigurationError, MissingExtra
from tests.payloads.records import AVRO

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
cloudevents = "binary"
cloudevents_source = "/shop"

[registry]
url = "http://me:hidden@registry:8081"
basic.auth.user.info = "me:hidden"
timeout = 3

[topics."orders"]
encode = "avro"
schema = "schemas/order.avsc"
register = true

[topics."orders".types."order.cancelled"]
subject = "cancelled"

[topics."audit.*"]
encode = "json-schema"
version = 2
"""


def settings(directory: Path, text: str, **variables: str) -> Settings:
    (directory / "outbox.toml").write_text(text)
    return load({}, variables, directory)


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    (tmp_path / "schemas").mkdir()
    path = tmp_path / "schemas" / "order.avsc"
    path.write_text(AVRO)
    return path


def test_the_file_says_how_topics_are_encoded(tmp_path: Path, schemas: Path) -> None:
    found = settings(tmp_path, FILE)

    orders, audit = found.topics
    assert orders.encode == "avro"
    assert (orders.schema, orders.register) == (str(schemas), True)
    # A type's table says only what is different
    cancelled = orders.for_type("order.cancelled")
    assert (cancelled.subject, cancelled.schema, cancelled.register) == (
        "cancelled",
        str(schemas),
        True,
    )
    assert (audit.topic, audit.version) == ("audit.*", 2)
    assert (found.cloudevents, found.cloudevents_source) == ("binary", "/shop")
    assert found.registry["timeout"] == 3


def test_sources_are_shown_and_secrets_are_not(tmp_path: Path, schemas: Path) -> None:
    found = settings(tmp_path, FILE, OUTBOX_REGISTRY_BASIC_AUTH_USER_INFO="you:hidden")

    shown = {name: (value, source) for name, value, source in found.shown()}
    assert "hidden" not in str(shown)
    assert shown["registry.url"] == (
        "http://me:***@registry:8081",
        "file outbox.toml, table [registry]",
    )
    assert shown["registry.basic.auth.user.info"] == (
        "***",
        "environment OUTBOX_REGISTRY_BASIC_AUTH_USER_INFO",
    )
    assert shown["topics.orders.encode"] == ("avro", "file outbox.toml, table [topics]")
    assert shown["topics.orders.order.cancelled.subject"][0] == "cancelled"
    assert "topics.orders.subject" not in shown


def test_variables_win_and_may_name_files(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("you:secret\n")
    found = settings(
        tmp_path,
        '[registry]\nurl = "http://a"\n',
        OUTBOX_REGISTRY_URL="http://b",
        OUTBOX_REGISTRY_BASIC_AUTH_USER_INFO_FILE=str(tmp_path / "secret"),
        OUTBOX_REGISTRY_CACHE_LATEST_TTL_SEC="60",
    )

    assert found.registry == {
        "url": "http://b",
        "basic.auth.user.info": "you:secret",
        "cache.latest.ttl.sec": 60,
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[topics.orders]\nencode = "avr"', "encode = 'avr' is not one of avro, protobuf"),
        ('[topics.orders]\nschema = "x"', "needs encode: one of avro, protobuf"),
        ('[topics.orders]\nencode = "avro"\nshema = "x"', "'shema'; did you mean 'schema'"),
        ('[topics.orders]\nencode = "avro"\nschema = "x.avsc"', "there is no schema file"),
        ('[topics.orders]\nencode = "avro"\nregister = true', "register = true needs schema"),
        ('[topics.orders]\nencode = "avro"\nregister = "yes"', "register must be true or false"),
        ('[topics.orders]\nencode = "avro"\nsubject_strategy = "record"', "give schema, or"),
        ('[topics.orders.placed]\nencode = "avro"', "topic or a pattern in quotes"),
        ('topics = "avro"', "topics must be a table of tables"),
        ('[registry]\nurll = "x"', "unknown property 'urll'; did you mean 'url'"),
        ('[registry]\ntimeout = "x"', "registry.timeout .* 'x' is no number"),
        ('[registri]\nurl = "x"', "unknown setting 'registri'; did you mean 'registry'"),
        ('cloudevents = "yes"', "'yes' is not a form of CloudEvents"),
        ('cloudevents_source = "a b"', "'a b' is no URI reference"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        settings(tmp_path, text)
    assert any(word in str(caught.value) for word in ("outbox.toml", "cloudevents"))


def test_a_name_goes_before_patterns_and_those_in_their_order() -> None:
    rules = tuple(TopicRule(topic, "avro") for topic in ("a.*", "a.b.*", "a.b.c"))

    assert find_rule(rules, "a.b.c") is rules[2]
    assert find_rule(rules, "a.b.d") is rules[0]
    assert find_rule(rules, "b") is None


def test_a_rule_without_a_registry_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ConfigurationError, match="no schema registry is known: give OUTBOX_REG"):
        Encodings((TopicRule("orders", "avro"),))


def test_what_is_wrong_with_a_schema_file_shows_before_anything_is_sent(tmp_path: Path) -> None:
    registry = {"url": "http://127.0.0.1:9"}
    for encode, text, sentence in (
        ("avro", "{", "Expecting property name"),
        ("avro", '{"type": "recordd", "name": "x"}', "this is no Avro schema"),
        ("json-schema", "[", "Expecting value"),
        ("protobuf", "syntax", "is no descriptor set"),
    ):
        (tmp_path / "schema").write_text(text)
        rule = TopicRule("orders", encode, schema=str(tmp_path / "schema"))  # type: ignore[arg-type]  # one of them
        with pytest.raises(ConfigurationError, match=sentence):
            Encodings((rule,), registry)
    for schema, sentence in (
        ("nowhere_at_all:Order", "cannot be imported"),
        ("json:loads", "is not a generated Protobuf message"),
    ):
        with pytest.raises(ConfigurationError, match=sentence):
            Encodings((TopicRule("orders", "protobuf", schema=schema),), registry)


def test_a_property_that_the_client_refuses_is_a_mistake_of_configuration() -> None:
    rule = TopicRule("orders", "avro")
    with pytest.raises(ConfigurationError, match="registry: Invalid url ftp://x"):
        Encodings((rule,), {"url": "ftp://x"})


@pytest.mark.parametrize(
    ("module", "encode", "extra"),
    [
        ("confluent_kafka.schema_registry", "avro", "avro"),
        ("confluent_kafka.schema_registry.avro", "avro", "avro"),
        ("confluent_kafka.schema_registry.protobuf", "protobuf", "protobuf"),
        ("confluent_kafka.schema_registry.json_schema", "json-schema", "jsonschema"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, encode: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf'pip install "outbox-relay\[{extra}\]"'):
        Encodings((TopicRule("orders", encode),), {"url": "http://127.0.0.1:9"})  # type: ignore[arg-type]  # one of them
