"""JSON that is checked against a schema, by jsonschema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from outbox.config.topic_rules import TopicRule
from outbox.encoding.encoder import Encode, RegistryEncoder, parsed_json
from outbox.encoding.misfit import Misfit
from outbox.encoding.registration import Registration, schema_text
from outbox.encoding.registry import SchemaRegistry
from outbox.errors import ConfigurationError, MissingExtra, OutboxError

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema


class JsonSchemaEncoder(RegistryEncoder):
    """Checks payloads, and puts the schema's id to them."""

    def __init__(self, rule: TopicRule, topic: str, registry: SchemaRegistry) -> None:
        text = schema_text(rule)
        name = None if text is None else _title(text, rule)
        super().__init__(Registration(rule, topic, registry, name, text))
        self._serializer_class = _serializer_class()
        if text is not None:  # what is wrong with a file shows at the start
            self._prepare(self._registration.unregistered())

    def _prepare(self, found: RegisteredSchema) -> Encode:
        serialize = self._serializer(found)

        def encode(payload: bytes, context: Any) -> bytes:
            value = parsed_json(payload)
            if value is None:  # the serializer would leave it out
                raise Misfit("payload", "null alone would become a tombstone")
            try:
                return serialize(value, context)
            except OutboxError:
                raise
            except Exception as error:
                raise _placed(error) from error

        return encode

    def _serializer(self, found: RegisteredSchema) -> Callable[[Any, Any], bytes]:
        registration = self._registration
        try:
            made: Callable[[Any, Any], bytes] = self._serializer_class(
                found.schema,
                registration.client(found),
                conf=registration.configuration(),
                json_encode=_compact,
            )
        except OutboxError:
            raise
        except Exception as error:
            raise ConfigurationError(f"{self.schema}: this is no JSON Schema: {error}") from error
        return made


_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _placed(error: Exception) -> Misfit:
    """Return jsonschema's complaint, which Confluent's serializer passes on without its place."""
    place = getattr(error.__context__, "json_path", "$")
    return Misfit(f"payload{place.removeprefix('$')}", str(error))


def _serializer_class() -> Any:
    try:
        from confluent_kafka.schema_registry.json_schema import JSONSerializer
    except ImportError as error:
        raise MissingExtra(
            'encoding by JSON Schema needs jsonschema: run `pip install "outbox-relay[jsonschema]"`'
        ) from error
    return JSONSerializer


def _title(text: str, rule: TopicRule) -> str | None:
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ConfigurationError(f"topic {rule.topic!r}: {rule.schema}: {error}") from error
    return schema.get("title") if isinstance(schema, dict) else None
