"""The payload of a received message, as the Topic says it is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from outbox.errors import PayloadNotReadable
from outbox.text import shown
from outbox.topic.kind import Kind
from outbox.topic.reading import read

_JSON = re.compile(r"application/([\w.-]+\+)?json", re.IGNORECASE)
_ENVELOPE = "application/cloudevents+json"

#: What a schema registry's clients put before JSON: a zero, and the number of the schema.
_FRAME_BYTES = 5


class Received(Protocol):
    """What is needed of a message: a ReceivedMessage has it."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes | None: ...
    @property
    def type(self) -> str | None: ...
    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]: ...


def decode(kinds: tuple[Kind, ...], received: Received) -> Any:
    """Return the payload as the kind that the message's type says; raise PayloadNotReadable."""
    with _naming(received.topic):
        return _decode(kinds, received)


def convert(kinds: tuple[Kind, ...], value: object, received: Received) -> Any:
    """Return a value as the kind that the message's type says; raise PayloadNotReadable."""
    with _naming(received.topic):
        return read(_kind(kinds, received.type).payload, value)


@contextmanager
def _naming(topic: str) -> Iterator[None]:
    try:
        yield
    except PayloadNotReadable as error:
        raise PayloadNotReadable(f"topic {topic!r}: {error}") from error


def _decode(kinds: tuple[Kind, ...], received: Received) -> Any:
    if received.payload is None:
        raise PayloadNotReadable("a tombstone has no payload; look at `payload is None` first")
    content_type = _content_type(received)
    if content_type == _ENVELOPE:
        event = _parsed(received.payload)
        kind = _kind(kinds, event.get("type"))
        return read(kind.payload, event.get("data"), "data")
    kind = _kind(kinds, received.type)
    if kind.payload is bytes:
        return received.payload
    if content_type and not _JSON.fullmatch(content_type):
        raise PayloadNotReadable(
            f"the payload is {content_type}, and only JSON is read here; give what a deserializer "
            "of that makes of it to convert()"
        )
    return read(kind.payload, _parsed(received.payload))


def _parsed(payload: bytes) -> Any:
    # No JSON begins with a zero.
    text = payload[_FRAME_BYTES:] if payload[:1] == b"\0" else payload
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise PayloadNotReadable(f"the payload {shown(payload)} is not JSON: {error}") from error


def _content_type(received: Received) -> str:
    value = next((v for name, v in received.headers if name.lower() == "content-type"), None)
    return (value or b"").decode(errors="replace").partition(";")[0].strip()


def _kind(kinds: tuple[Kind, ...], type_: str | None) -> Kind:
    for kind in kinds:
        if kind.type == type_:
            return kind
    if len(kinds) == 1 and (type_ is None or kinds[0].type is None):
        return kinds[0]
    known = ", ".join(repr(kind.type) for kind in kinds)
    raise PayloadNotReadable(f"a message of type {type_!r} is none that this Topic knows: {known}")
