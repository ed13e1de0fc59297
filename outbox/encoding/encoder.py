"""The seam to formats: what encodes the payloads of one topic."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from outbox.config.topic_rules import TopicRule
from outbox.encoding.misfit import Misfit
from outbox.encoding.registration import Registration
from outbox.encoding.registry import SchemaRegistry
from outbox.errors import OutboxError
from outbox.headers import WireHeaders

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema

#: Payload and context to bytes.
Encode = Callable[[bytes, Any], bytes]

_JSON = re.compile(r"application/(?:[\w.-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


class Encoder(Protocol):
    """Encodes the payloads of one topic."""

    @property
    def content_type(self) -> str:
        """What the header `content-type` says then."""

    @property
    def schema(self) -> str:
        """Which schema it encodes by, in words."""

    def load(self) -> None:
        """Fetch the schema now, unless it is known."""

    def encode(self, payload: bytes, headers: WireHeaders) -> bytes:
        """Return the payload encoded; may append to the headers.

        Raises Misfit for a payload that does not fit; RegistryUnavailable; ConfigurationError.
        """


def make_encoder(rule: TopicRule, topic: str, registry: SchemaRegistry) -> Encoder:
    """Return the encoder of a topic. Raises MissingExtra and ConfigurationError."""
    if rule.encode == "avro":
        from outbox.encoding.avro import AvroEncoder

        return AvroEncoder(rule, topic, registry)
    if rule.encode == "protobuf":
        from outbox.encoding.protobuf import ProtobufEncoder

        return ProtobufEncoder(rule, topic, registry)
    from outbox.encoding.json_schema import JsonSchemaEncoder

    return JsonSchemaEncoder(rule, topic, registry)


class RegistryEncoder:
    """What the encoders have in common.

    Everything that belongs to one schema is made together, and made anew when the registry has a
    newer one. Thread-safe.
    """

    #: The form in which the registry is asked for a schema.
    _fmt: str | None = None

    def __init__(self, registration: Registration) -> None:
        self._registration = registration
        self.content_type = registration.content_type
        self.schema = registration.in_words
        self._current: tuple[int | None, Encode] | None = None

    def load(self) -> None:
        """Fetch the schema now."""
        self._now()

    def encode(self, payload: bytes, headers: WireHeaders) -> bytes:
        """Return the payload encoded."""
        encode = self._now()
        try:
            return encode(payload, self._registration.context(headers))
        except (OutboxError, Misfit):
            raise
        except Exception as error:
            # The libraries below raise all sorts; whatever it is, this payload cannot be sent so.
            raise Misfit("payload", str(error) or type(error).__name__) from error

    def _now(self) -> Encode:
        found = self._registration.found(self._fmt)
        current = self._current
        if current is None or current[0] != found.schema_id:
            current = self._current = (found.schema_id, self._prepare(found))
        return current[1]

    def _prepare(self, found: RegisteredSchema) -> Encode:
        raise NotImplementedError


def is_json(content_type: str | None) -> bool:
    """Return whether a content type is that of JSON."""
    return content_type is not None and _JSON.fullmatch(content_type) is not None


def parsed_json(payload: bytes, **options: Any) -> Any:
    """Return the value of a payload; raise Misfit for what is no JSON."""
    try:
        return json.loads(payload, parse_constant=_refuse_constant, **options)
    except (ValueError, RecursionError) as error:
        raise Misfit("payload", f"it is not JSON: {error}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
