"""What a test expects of a message, and whether a message is that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast, runtime_checkable
from uuid import UUID

from outbox.errors import PayloadNotSerializable
from outbox.serialization.serializer import JsonSerializer
from outbox.testing.log import AddedMessage

_serializer = JsonSerializer()


class _Anything:
    """Equal to whatever it is compared with: nothing is expected."""

    def __repr__(self) -> str:
        return "ANYTHING"


#: The default of what may be expected; None stands for a message without it.
ANYTHING: Final = _Anything()


@runtime_checkable
class NamedTopic(Protocol):
    """A declared topic."""

    @property
    def name(self) -> str: ...


class containing:  # noqa: N801 - reads as the word in a sentence, like a function
    """Equal to data that has at least this: a mapping's items, or a sequence's elements.

    Nests: `containing({"order": containing({"id": 1})})`. In a sequence the elements may stand
    anywhere.
    """

    def __init__(self, part: Mapping[str, object] | Sequence[object]) -> None:
        if not isinstance(part, Mapping | list | tuple):
            raise TypeError(
                f"containing() takes a mapping or a list, not {type(part).__name__}: "
                'containing({"order": 1})'
            )
        self.part: Mapping[str, object] | Sequence[object] = part

    def __eq__(self, other: object) -> bool:
        if isinstance(self.part, Mapping):
            return isinstance(other, Mapping) and all(
                name in other and equals(value, other[name]) for name, value in self.part.items()
            )
        return isinstance(other, list | tuple) and all(
            any(equals(value, element) for element in other) for value in self.part
        )

    __hash__ = None  # type: ignore[assignment]  # equal to many things that are not equal

    def __repr__(self) -> str:
        return f"containing({self.part!r})"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a message should be. What is ANYTHING is not looked at."""

    topic: object = ANYTHING
    key: object = ANYTHING
    payload: object = ANYTHING
    type: object = ANYTHING
    headers: object = ANYTHING
    deliver_at: object = ANYTHING
    wait_for: object = ANYTHING

    def __post_init__(self) -> None:
        if isinstance(self.topic, NamedTopic):
            object.__setattr__(self, "topic", self.topic.name)
        if isinstance(self.key, int | UUID) and not isinstance(self.key, bool):
            object.__setattr__(self, "key", str(self.key))  # as `Outbox.add` stores it

    @classmethod
    def of(cls, topic: str | NamedTopic | None, **expected: object) -> Expected:
        """Return what was said of a message; without a topic it may be any."""
        return cls(ANYTHING if topic is None else topic, **expected)

    def differences(self, message: AddedMessage) -> list[str]:
        """Return the names of what is not as expected."""
        tests: dict[str, Callable[[], bool]] = {
            "topic": lambda: equals(self.topic, message.topic),
            "key": lambda: equals(self.key, message.key),
            "payload": lambda: _payload_fits(self.payload, message),
            "type": lambda: equals(self.type, message.type),
            "headers": lambda: _headers_fit(self.headers, message.headers),
            "deliver_at": lambda: equals(self.deliver_at, message.deliver_at),
            "wait_for": lambda: equals(self.wait_for, message.wait_for),
        }
        return [
            name
            for name, fits in tests.items()
            if getattr(self, name) is not ANYTHING and not fits()
        ]

    def fits(self, message: AddedMessage) -> bool:
        """Return whether the message is as expected."""
        return not self.differences(message)

    def __str__(self) -> str:
        names = ("key", "payload", "type", "headers", "deliver_at", "wait_for")
        given = {name: getattr(self, name) for name in names}
        told = ", ".join(
            f"{name}={_told(value)}" for name, value in given.items() if value is not ANYTHING
        )
        where = "" if self.topic is ANYTHING else f" to topic {_told(self.topic)}"
        return where + (f" with {told}" if told else "")


def equals(expected: object, actual: object) -> bool:
    """Compare as on the wire: a Decimal, a UUID, a dataclass equals its JSON.

    A function is asked instead, and any object with an `__eq__` of its own decides for itself.
    """
    if expected is ANYTHING:
        return True
    if is_predicate(expected):
        return bool(cast("Callable[[object], object]", expected)(actual))
    return bool(expected == actual) or bool(as_json(expected) == actual)


def is_predicate(expected: object) -> bool:
    """Return whether this is a function to ask."""
    return callable(expected) and not isinstance(expected, type)


def _payload_fits(expected: object, message: AddedMessage) -> bool:
    if expected is None or message.payload is None:
        return message.payload is None and equals(expected, None)
    if isinstance(expected, bytes | bytearray | memoryview):
        return message.payload == bytes(expected)
    return equals(expected, message.data)


def _headers_fit(expected: object, headers: tuple[tuple[str, str | None], ...]) -> bool:
    """Each that is expected must be there; others may be."""
    if expected is None:
        return not headers
    if isinstance(expected, Mapping):
        return all(
            any(name == wanted and equals(value, actual) for name, actual in headers)
            for wanted, value in expected.items()
        )
    if isinstance(expected, list | tuple):
        return all(tuple(pair) in headers for pair in expected)
    return equals(expected, dict(headers))


def as_json(value: object) -> object:
    """Return the value as it comes back from JSON; as it is where it has none."""
    if value is None or isinstance(value, str | int | float | bytes):
        return value
    try:
        return json.loads(_serializer.serialize(value))
    except (PayloadNotSerializable, ValueError):
        return value


def _told(value: object) -> str:
    return getattr(value, "__name__", repr(value)) if is_predicate(value) else repr(value)
