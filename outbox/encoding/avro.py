"""Avro, by fastavro."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from outbox.config.topic_rules import TopicRule
from outbox.encoding.avro_values import Conversion
from outbox.encoding.encoder import Encode, RegistryEncoder, parsed_json
from outbox.encoding.registration import Registration, schema_text
from outbox.encoding.registry import SchemaRegistry
from outbox.errors import ConfigurationError, MissingExtra, OutboxError

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema


class AvroEncoder(RegistryEncoder):
    """Encodes payloads as Avro."""

    def __init__(self, rule: TopicRule, topic: str, registry: SchemaRegistry) -> None:
        text = schema_text(rule)
        name = None if text is None else _name(text, rule)
        super().__init__(Registration(rule, topic, registry, name, text))
        self._ignore_unknown = rule.unknown_fields == "ignore"
        self._serializer_class = _serializer_class()
        if text is not None:  # what is wrong with a file shows at the start
            self._prepare(self._registration.unregistered())

    def _prepare(self, found: RegisteredSchema) -> Encode:
        serialize, convert = self._serializer(found), self._conversion(found)

        def encode(payload: bytes, context: Any) -> bytes:
            return serialize(convert(parsed_json(payload, parse_float=Decimal)), context)

        return encode

    def _conversion(self, found: RegisteredSchema) -> Callable[[Any], Any]:
        named: dict[str, Any] = {}
        self._collect(found, named)
        try:
            return Conversion(
                parsed_schema(found.schema.schema_str or ""),
                named,
                ignore_unknown=self._ignore_unknown,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"{self.schema}: this is no Avro schema: {error!r}") from error

    def _collect(self, found: RegisteredSchema, named: dict[str, Any]) -> None:
        """Gather what a schema refers to, the innermost first."""
        for reference in found.schema.references or ():
            inner = self._registration.registry.get_version(
                str(reference.subject), int(reference.version or 1)
            )
            self._collect(inner, named)
            named[str(reference.name)] = parsed_schema(inner.schema.schema_str or "")

    def _serializer(self, found: RegisteredSchema) -> Callable[[Any, Any], bytes]:
        registration = self._registration
        try:
            made: Callable[[Any, Any], bytes] = self._serializer_class(
                registration.client(found), found.schema, conf=registration.configuration()
            )
        except OutboxError:
            raise
        except Exception as error:
            raise ConfigurationError(f"{self.schema}: this is no Avro schema: {error}") from error
        return made


def _serializer_class() -> Any:
    try:
        from confluent_kafka.schema_registry.avro import AvroSerializer
    except ImportError as error:
        raise MissingExtra(
            'encoding as Avro needs fastavro: run `pip install "outbox-relay[avro]"`'
        ) from error
    return AvroSerializer


def parsed_schema(text: str) -> Any:
    """Return an Avro schema of its JSON; a bare name, such as string, is one too."""
    stripped = text.strip()
    return json.loads(stripped) if stripped[:1] in ("{", "[", '"') else stripped


def _name(text: str, rule: TopicRule) -> str | None:
    """Return the full name of a schema's record, if it is one."""
    try:
        schema = parsed_schema(text)
    except ValueError as error:
        raise ConfigurationError(f"topic {rule.topic!r}: {rule.schema}: {error}") from error
    if not isinstance(schema, dict) or "name" not in schema:
        return None
    name, space = str(schema["name"]), schema.get("namespace")
    return f"{space}.{name}" if space and "." not in name else name
