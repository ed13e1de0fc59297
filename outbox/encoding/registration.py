"""How the rule of a topic and the schema registry come together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outbox.config.topic_rules import TopicRule
from outbox.encoding.registry import FixedRegistry, SchemaRegistry
from outbox.errors import ConfigurationError
from outbox.headers import WireHeaders

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema

#: The media types of what is encoded. None of them is JSON's, since what the registry's clients put
#: before it makes it none.
_CONTENT_TYPES = {
    "avro": "application/vnd.apache.avro+binary",
    "protobuf": "application/x-protobuf",
    "json-schema": "application/schema-instance+json",
}

#: What the registry calls the formats.
_SCHEMA_TYPES = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}


@dataclass(slots=True)
class Registration:
    """The schema of one topic, as the registry has it.

    `name` is the schema's own name, where the rule brings a schema, and `text` what it says.
    """

    rule: TopicRule
    topic: str
    registry: SchemaRegistry
    name: str | None = None
    text: str | None = None
    _told: RegisteredSchema | None = field(default=None, init=False)

    @property
    def subject(self) -> str:
        """Return the subject that holds the schema."""
        if self.rule.subject is not None:
            return self.rule.subject
        if self.rule.subject_strategy == "topic":
            return f"{self.topic}-value"
        if self.name is None:
            raise ConfigurationError(
                f"topic {self.topic!r}: the schema has no name to make a subject of; give subject"
            )
        return self.name if self.rule.subject_strategy == "record" else f"{self.topic}-{self.name}"

    @property
    def in_words(self) -> str:
        """Return which schema it is."""
        if self.rule.schema is not None:
            return f"{self.rule.schema}, subject {self.subject}"
        version = "newest version" if self.rule.version is None else f"version {self.rule.version}"
        return f"subject {self.subject}, {version}"

    @property
    def content_type(self) -> str:
        """Return what the header says of the payloads."""
        if self.rule.content_type is not None:
            return self.rule.content_type
        # Without the frame in front it is plain JSON.
        is_bare_json = self.rule.encode == "json-schema" and self.rule.schema_id == "header"
        return "application/json" if is_bare_json else _CONTENT_TYPES[self.rule.encode]

    def found(self, fmt: str | None = None) -> RegisteredSchema:
        """Return the schema and its id, asking the registry where that is not known."""
        if self.text is not None:
            self._told = self._told or self._as_registered(self.text)
            return self._told
        if self.rule.version is None:
            return self.registry.get_latest_version(self.subject, fmt)
        return self.registry.get_version(self.subject, self.rule.version, False, fmt)

    def unregistered(self) -> RegisteredSchema:
        """Return the rule's own schema with no id, to see whether it is one at all."""
        from confluent_kafka.schema_registry import RegisteredSchema

        return RegisteredSchema(0, None, self._own_schema(self.text or ""), self.subject, 0)

    def _as_registered(self, text: str) -> RegisteredSchema:
        from confluent_kafka.schema_registry import RegisteredSchema

        schema = self._own_schema(text)
        register = self.rule.register
        ask = (
            self.registry.register_schema_full_response if register else self.registry.lookup_schema
        )
        known = ask(self.subject, schema)
        # With the text as it is in the file: some registries leave it out of their answers.
        return RegisteredSchema(known.schema_id, known.guid, schema, self.subject, known.version)

    def _own_schema(self, text: str) -> Any:
        from confluent_kafka.schema_registry import Schema

        return Schema(text, _SCHEMA_TYPES[self.rule.encode])

    def client(self, found: RegisteredSchema) -> Any:
        """Return what stands in for the registry's client in a serializer."""
        return FixedRegistry(self.registry, found)

    def configuration(self) -> dict[str, object]:
        """Return the properties of a serializer of Confluent's, for a client of ours."""
        return {
            "auto.register.schemas": False,
            "use.latest.version": True,
            "subject.name.strategy": lambda _, __: self.subject,
            "schema.id.serializer": id_serializer(self.rule),
        }

    def context(self, headers: WireHeaders) -> Any:
        """Return the circumstances of one payload, whose headers may get the schema's id."""
        from confluent_kafka.serialization import MessageField, SerializationContext

        return SerializationContext(self.topic, MessageField.VALUE, headers)


def id_serializer(rule: TopicRule) -> Callable[..., bytes]:
    """Return what puts the schema's id in front of the value, or into a header."""
    from confluent_kafka.schema_registry import prefix_schema_id_serializer

    return prefix_schema_id_serializer if rule.schema_id == "value" else _in_header


def _in_header(payload: bytes, context: Any, schema_id: Any) -> bytes:
    from confluent_kafka.schema_registry import header_schema_id_serializer

    if schema_id.guid is None:
        raise ConfigurationError(
            'schema_id = "header" sends the schema\'s GUID, and this registry gives none; '
            'use schema_id = "value"'
        )
    framed: bytes = header_schema_id_serializer(payload, context, schema_id)
    return framed


def schema_text(rule: TopicRule) -> str | None:
    """Return what a schema's file holds, None without one; raise ConfigurationError."""
    if rule.schema is None:
        return None
    try:
        return Path(rule.schema).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"topic {rule.topic!r}: schema {rule.schema} cannot be read: {error}"
        ) from error
