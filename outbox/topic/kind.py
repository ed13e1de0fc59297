"""One kind of message in a topic: what its payload is, and what goes with it."""

from __future__ import annotations

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from outbox.errors import ConfigurationError, PayloadNotSerializable
from outbox.text import shown

#: What `key=` of a Topic takes: how to find the key of a payload.
KeyOf = Callable[[Any], str | int | UUID]


class PayloadSerializer(Protocol):
    """What `serializer=` of a Topic takes: the same as that of an Outbox."""

    @property
    def content_type(self) -> str | None:
        """What goes into the header `content-type`, unless the message says otherwise."""

    def serialize(self, payload: Any) -> bytes:
        """Return the bytes of a payload that is neither bytes nor None."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the messages of one type are made of. `payload` is a class, or a generic of one."""

    payload: Any
    type: str | None
    key: KeyOf | None
    content_type: str | None
    serializer: PayloadSerializer | None

    def takes(self, payload: object) -> bool:
        """Say whether this is the kind of such a payload."""
        wanted = runtime_class(self.payload)
        # As type checkers have it: an int is welcome where a float is.
        return isinstance(payload, (int, float) if wanted is float else wanted)

    @property
    def name(self) -> str:
        """How people call the payload's type."""
        return type_name(self.payload)

    def serialized(self, payload: Any) -> Any:
        """Return the payload, as bytes where this kind has a serializer of its own."""
        if self.serializer is None or isinstance(payload, bytes | None):
            return payload
        data: object = self.serializer.serialize(payload)
        if not isinstance(data, bytes):
            raise PayloadNotSerializable(
                f"{type(self.serializer).__name__}.serialize() returned {type(data).__name__}; "
                "it must return bytes"
            )
        return data

    @property
    def effective_content_type(self) -> str | None:
        """What the header says unless the message does."""
        if self.content_type is not None or self.serializer is None:
            return self.content_type
        return self.serializer.content_type


def runtime_class(payload: Any) -> type:
    """Return the class that `isinstance` can check: of list[int] list, of a TypedDict dict."""
    if typing.is_typeddict(payload):
        return dict
    found = typing.get_origin(payload) or payload
    assert isinstance(found, type)  # noqa: S101 - check_payload_type has seen to it
    return found


def check_payload_type(topic: str, payload: Any) -> Any:
    """Return what a Topic is declared with, or raise ConfigurationError."""
    if isinstance(payload, type) or typing.is_typeddict(payload):
        return payload
    if isinstance(typing.get_origin(payload), type) and not _is_union(payload):
        return payload
    if _is_union(payload):
        named = " | ".join(
            f'Topic("{topic}", {type_name(member)}, type=…)' for member in typing.get_args(payload)
        )
        raise ConfigurationError(
            f"topic {topic!r}: declare each type of payload with its message type: {named}"
        )
    raise ConfigurationError(
        f"topic {topic!r}: the payload's type must be a class, not {shown(payload)}"
    )


def _is_union(payload: Any) -> bool:
    return typing.get_origin(payload) in (typing.Union, type(int | str))


def type_name(payload: Any) -> str:
    """Return how people call a type."""
    return (
        payload.__qualname__ if isinstance(payload, type) else str(payload).replace("typing.", "")
    )


def check_distinct(topic: str, kinds: tuple[Kind, ...]) -> None:
    """Raise ConfigurationError where a payload, or a received message, could be of two kinds."""
    classes = [runtime_class(kind.payload) for kind in kinds]
    if len(set(classes)) < len(classes):
        raise ConfigurationError(
            f"topic {topic!r}: {' and '.join(kind.name for kind in kinds)} cannot be told apart: "
            "use one class for each message type"
        )
    types = [kind.type for kind in kinds]
    if None in types or len(set(types)) < len(types):
        raise ConfigurationError(
            f"topic {topic!r} carries several types of messages: give each of them its own type="
        )


def find_kind(topic: str, kinds: tuple[Kind, ...], payload: object) -> Kind:
    """Return the kind of message that has such a payload; raise PayloadNotSerializable."""
    if len(kinds) > 1:
        exact = (kind for kind in kinds if runtime_class(kind.payload) is type(payload))
        if kind := next(exact, None):
            return kind
    for kind in kinds:
        if kind.takes(payload):
            return kind
    wanted = " or ".join(kind.name for kind in kinds)
    raise PayloadNotSerializable(
        f"topic {topic!r} takes {wanted}, not {type(payload).__qualname__}: {shown(payload)}"
    )
