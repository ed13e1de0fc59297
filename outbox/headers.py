"""Message headers: what a writer may set, how they are stored, what goes on the wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

from outbox.errors import InvalidMessage, MessageRefused
from outbox.text import check_text, shown

#: What `headers=` takes: a mapping, or pairs where order or repetition matters.
HeadersInput: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
#: What a Message holds.
Headers: TypeAlias = tuple[tuple[str, str], ...]
#: What a Kafka client takes.
WireHeaders: TypeAlias = list[tuple[str, bytes | None]]

MAX_HEADERS = 64

#: Names the relay sets, and where each value comes from.
RESERVED = {
    "id": "use the argument id=",
    "type": "use the argument type=",
    "content-type": "use the argument content_type=",
    "traceparent": "it is taken from the current trace context",
    "tracestate": "it is taken from the current trace context",
}
RESERVED_PREFIX = "outbox-"

#: The id of the message whose place a message has taken; stored with it when it is edited.
EDITED_FROM = "outbox-edited-from"

#: A stored header whose value is no text is an object with this one member.
_BINARY = "base64"

_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_parsed = json.JSONDecoder().decode


def check_headers(headers: object) -> tuple[Headers, str | None]:
    """Return the headers as pairs and as the JSON that is stored, or raise InvalidMessage.

    A mapping is stored as a flat object, which is what people query; a sequence as an array of
    pairs, since a jsonb object keeps neither order nor repetition.
    """
    pairs = tuple(_checked(_pairs(headers)))
    if not pairs:
        return (), None
    if len(pairs) > MAX_HEADERS:
        raise InvalidMessage(f"{len(pairs)} headers are too many: at most {MAX_HEADERS} fit")
    return pairs, _compact(dict(pairs) if isinstance(headers, Mapping) else pairs)


def _pairs(headers: object) -> Iterable[object]:
    if isinstance(headers, Mapping):
        return headers.items()
    if isinstance(headers, Iterable) and not isinstance(headers, (str, bytes)):
        return headers
    raise InvalidMessage(
        f"headers must be a mapping or a sequence of (name, value) pairs, "
        f"not {type(headers).__name__}"
    )


def _checked(pairs: Iterable[object]) -> Iterator[tuple[str, str]]:
    for pair in pairs:
        if not isinstance(pair, Sequence) or isinstance(pair, (str, bytes)) or len(pair) != 2:
            raise InvalidMessage(f"header {shown(pair)} is not a (name, value) pair")
        name, value = pair
        yield _check_name(name), _check_value(name, value)


def _check_name(name: object) -> str:
    if not isinstance(name, str):
        raise InvalidMessage(f"header name {shown(name)} must be str, not {type(name).__name__}")
    if not (name and name.isascii() and name.isprintable() and name == name.strip()):
        raise InvalidMessage(
            f"header name {shown(name)} is not valid: use printable ASCII, "
            "at least one character, no space at either end"
        )
    if is_reserved(name):
        reason = RESERVED.get(name.lower(), f"names beginning with {RESERVED_PREFIX} are ours")
        raise InvalidMessage(f"header name {name!r} is reserved: {reason}")
    return check_text("header name", name)


def _check_value(name: str, value: object) -> str:
    if isinstance(value, str):
        return check_text(f"header {name!r}:", value)
    fix = "decode it" if isinstance(value, (bytes, bytearray, memoryview)) else "convert it"
    raise InvalidMessage(
        f"header {name!r}: the value must be str, not {type(value).__name__}; {fix} first"
    )


@lru_cache(maxsize=256)
def is_reserved(name: str) -> bool:
    """Say whether the relay alone sets this header, in whatever case it is written."""
    lowered = name.lower()
    return lowered in RESERVED or lowered.startswith(RESERVED_PREFIX)


def wire_headers(
    id: str,
    type: str | None,
    content_type: str | None,
    traceparent: str | None,
    tracestate: str | None,
    position: str | None,
    user_headers_json: str | None,
) -> WireHeaders:
    """Return the headers of a Kafka message: ours first, then the user's in their order.

    None sends no header. Raises MessageRefused where plain SQL stored headers that are none.
    """
    wire: WireHeaders = [("id", id.encode())]
    if type is not None:
        wire.append(("type", type.encode()))
    if content_type is not None:
        wire.append(("content-type", content_type.encode()))
    if traceparent is not None:
        wire.append(("traceparent", traceparent.encode()))
    if tracestate is not None:
        wire.append(("tracestate", tracestate.encode()))
    if position is not None:
        wire.append(("outbox-position", position.encode()))
    if user_headers_json is not None:
        wire += user_headers(user_headers_json)
    return wire


def stored_headers(wire: WireHeaders) -> str:
    """Return headers as they are stored, to be turned back by `user_headers`.

    A value that is no text is kept as {"base64": …}.
    """
    return _compact([(name, _stored_value(value)) for name, value in wire])


def user_headers(stored: str) -> WireHeaders:
    """Return stored headers as they go on the wire, without those that are ours to set."""
    try:
        headers = _parsed(stored)
        pairs = headers.items() if isinstance(headers, dict) else headers
        # Plain SQL can store reserved names; ours win, and a second traceparent would be read by
        # some clients instead of the first.
        return [
            (name, value.encode() if value.__class__ is str else _wire_value(value))
            for name, value in pairs
            if not is_reserved(name) or name == EDITED_FROM
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise MessageRefused(
            f"the column headers holds {shown(stored)}, which is neither an object "
            "nor an array of [name, value] pairs of valid text"
        ) from error


def _wire_value(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and value.keys() == {_BINARY}:
        return base64.b64decode(value[_BINARY], validate=True)
    return None if value is None else _compact(value).encode()


def _stored_value(value: bytes | None) -> object:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return {_BINARY: base64.b64encode(value or b"").decode()}
