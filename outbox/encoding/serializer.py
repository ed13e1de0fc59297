"""Encoding where a message is written, for those who want a payload refused by its schema there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from outbox.config.topic_rules import TopicRule
from outbox.encoding.encoder import Encoder, make_encoder
from outbox.encoding.misfit import Misfit
from outbox.encoding.registry import SchemaRegistry
from outbox.errors import ConfigurationError, PayloadNotSerializable
from outbox.serialization.serializer import JsonSerializer


class RegistrySerializer:
    """Serializes payloads by the schemas of a registry; for `Outbox(serializer=…)` or a Topic.

    `registry`: properties of the registry's client, of which `url` is needed; the others are what
    the table of a topic may hold in outbox.toml. It registers nothing, since that would stay if the
    transaction does not. A schema that is not known yet is asked for: call `load` when the
    application starts, and no transaction ever waits for the registry. What is known then is used
    until the process ends, unless the property `cache.latest.ttl.sec` says otherwise. Thread-safe.

    Raises PayloadNotSerializable naming the field; RegistryUnavailable.
    """

    content_type: str | None = None

    def __init__(
        self,
        registry: Mapping[str, object],
        *,
        encode: Literal["avro", "protobuf", "json-schema"],
        schema: str | None = None,
        message: str | None = None,
        subject: str | None = None,
        version: int | None = None,
        unknown_fields: Literal["refuse", "ignore"] = "refuse",
    ) -> None:
        # A look whether there is a newer version would be somebody's transaction that waits.
        self._registry = SchemaRegistry({"cache.latest.ttl.sec": math.inf, **registry})
        self._options: dict[str, Any] = {
            "encode": encode,
            "schema": schema,
            "message": message,
            "subject": subject,
            "version": version,
            "unknown_fields": unknown_fields,
        }
        self._encoders: dict[str, SerializerOfTopic] = {}

    def for_topic(self, topic: str) -> SerializerOfTopic:
        """Return the serializer for one topic; each is made once."""
        found = self._encoders.get(topic)
        if found is None:
            rule = TopicRule(topic=topic, **self._options)
            found = SerializerOfTopic(make_encoder(rule, topic, self._registry), topic)
            self._encoders[topic] = found
        return found

    def load(self, *topics: str) -> None:
        """Fetch the schemas of topics now."""
        for topic in topics:
            self.for_topic(topic).load()

    def serialize(self, payload: Any) -> bytes:  # noqa: ARG002 - a Serializer's signature
        """Refuse: without a topic there is no schema."""
        raise ConfigurationError("a RegistrySerializer must know the topic; call for_topic first")

    def close(self) -> None:
        """Close the connections to the registry."""
        self._registry.close()


class SerializerOfTopic:
    """Serializes the payloads of one topic by its schema."""

    def __init__(self, encoder: Encoder, topic: str) -> None:
        self._encoder = encoder
        self._topic = topic
        self._json = JsonSerializer()

    @property
    def content_type(self) -> str:
        """What the header `content-type` says."""
        return self._encoder.content_type

    def serialize(self, payload: Any) -> bytes:
        """Return the payload as its schema asks, with the schema's id in front."""
        try:
            return self._encoder.encode(self._json.serialize(payload), [])
        except Misfit as error:
            raise PayloadNotSerializable(
                f"topic {self._topic!r} ({self._encoder.schema}): {error}"
            ) from error

    def load(self) -> None:
        """Fetch the schema now."""
        self._encoder.load()
