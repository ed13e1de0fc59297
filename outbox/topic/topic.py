"""A topic whose payload has a type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, runtime_checkable
from uuid import UUID

from outbox.errors import ConfigurationError
from outbox.names import check_name
from outbox.text import check_text
from outbox.topic.decoding import Received, convert, decode
from outbox.topic.kind import Kind, PayloadSerializer, check_distinct, check_payload_type, find_kind
from outbox.topic.name import check_topic_name

T = TypeVar("T")
S = TypeVar("S")


@runtime_checkable
class TopicSerializer(Protocol):
    """A serializer that must know the topic first, as those for a schema registry do."""

    def for_topic(self, topic: str) -> PayloadSerializer:
        """Return what serializes the payloads of one topic."""


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Topic(Generic[T]):
    """A topic and the type of its payloads; stands wherever a topic's name does.

    `type` is the message type that the payload's class stands for, `key` a function from the
    payload to the message's key; both, and `lane`, `ordering`, `content_type` and `serializer`,
    are what a message gets that does not say otherwise. Topics of one name are joined with `|`
    where it carries several types of messages. Raises InvalidMessage for a name that Kafka does
    not take, ConfigurationError for what else does not fit.
    """

    name: str
    lane: str | None
    ordering: Literal["strict"] | None
    kinds: tuple[Kind, ...]

    def __init__(
        self,
        name: str,
        payload: type[T],
        *,
        type: str | None = None,
        key: Callable[[T], str | int | UUID] | None = None,
        lane: str | None = None,
        ordering: Literal["strict"] | None = None,
        content_type: str | None = None,
        serializer: PayloadSerializer | TopicSerializer | None = None,
    ) -> None:
        checked = check_topic_name(name)
        kind = Kind(
            check_payload_type(checked, payload),
            None if type is None else check_text("type", type),
            key,
            None if content_type is None else check_text("content_type", content_type),
            serializer_for(serializer, checked),
        )
        _fill(self, checked, None if lane is None else check_name("lane", lane), ordering, (kind,))

    def __or__(self, other: Topic[S]) -> Topic[T | S]:
        """Return the topic that carries the messages of both."""
        if not isinstance(other, Topic):
            return NotImplemented
        for what in ("name", "lane", "ordering"):
            mine, others = getattr(self, what), getattr(other, what)
            if mine != others:
                raise ConfigurationError(
                    f"a topic is one stream: its {what} cannot be both {mine!r} and {others!r}"
                )
        joined: Topic[T | S] = object.__new__(Topic)
        kinds = self.kinds + other.kinds
        check_distinct(self.name, kinds)
        _fill(joined, self.name, self.lane, self.ordering, kinds)
        return joined

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Topic({self.name!r}, {' | '.join(kind.name for kind in self.kinds)})"

    def kind_of(self, payload: object) -> Kind:
        """Return the kind of message that has such a payload; raise PayloadNotSerializable."""
        return find_kind(self.name, self.kinds, payload)

    def decode(self, received: Received) -> T:
        """Return the payload of a ReceivedMessage, of JSON; what it has besides is left out.

        Where the topic carries several types, the message's type says which it is. Raises
        PayloadNotReadable, naming the field: for what does not fit, for a tombstone, for a type of
        message that this Topic does not know.
        """
        payload: T = decode(self.kinds, received)
        return payload

    def convert(self, value: object, received: Received) -> T:
        """Return what a deserializer of Avro or Protobuf has made of a message, as the payload.

        `value`: dicts, lists and plain values, also of the types that the payload has in Python.
        Raises what `decode` raises.
        """
        payload: T = convert(self.kinds, value, received)
        return payload


def topic_name(topic: str | Topic[Any]) -> str:
    """Return the name of a topic, given as that or as a Topic."""
    return topic.name if isinstance(topic, Topic) else topic


def serializer_for(
    serializer: PayloadSerializer | TopicSerializer | None, topic: str
) -> PayloadSerializer | None:
    """Return the serializer for a topic, which for most is the serializer itself."""
    return serializer.for_topic(topic) if isinstance(serializer, TopicSerializer) else serializer


def _fill(
    topic: Topic[Any],
    name: str,
    lane: str | None,
    ordering: Literal["strict"] | None,
    kinds: tuple[Kind, ...],
) -> None:
    put = object.__setattr__
    put(topic, "name", name)
    put(topic, "lane", lane)
    put(topic, "ordering", ordering)
    put(topic, "kinds", kinds)
