"""A message, as the application writes it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from outbox.errors import ConfigurationError, InvalidMessage
from outbox.headers import Headers, HeadersInput, check_headers
from outbox.names import check_name
from outbox.text import check_text, shown
from outbox.timing import check_timing
from outbox.topic.name import check_topic_name
from outbox.topic.topic import Topic

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    # The bare one, not its `compat` twin: its text is made ten times as fast.
    from uuid_utils import uuid7

#: Kafka takes more, but the log keeps an index and the relay a map by key.
MAX_KEY_BYTES = 1024

Ordering = Literal["strict"]

#: `deliver_at`, `delay`, `wait_for` and `expires_at`.
Timing: TypeAlias = tuple[datetime | None, timedelta | None, str | None, datetime | None]

T = TypeVar("T")


@dataclass(frozen=True, init=False)
class Message:
    """One message: everything but the payload's bytes is checked here, at construction.

    `key` is kept as text, `headers` as pairs, `id` is a UUIDv7 unless given. A payload of bytes is
    sent as it is, None is a tombstone (and needs a key), anything else goes through the Outbox's
    serializer when the message is added. A Topic refuses payloads of another type, and gives the
    message what it was declared with; `topic` then is its name.

    It is sent at once, or not before `deliver_at` or `delay` (counted by the database's clock from
    the moment it is added), and not before the condition `wait_for` is released; if both a time and
    a condition are given, not before both. What has not been sent at `expires_at` is not sent any
    more, and is kept as expired. Raises InvalidMessage.
    """

    topic: str
    payload: Any
    key: str | None = None
    type: str | None = None
    headers: Headers = ()
    id: UUID  # type: ignore[misc]  # has no default, and none comes before it in any constructor
    lane: str | None = None
    content_type: str | None = None
    ordering: Ordering | None = None
    deliver_at: datetime | None = None
    delay: timedelta | None = None
    wait_for: str | None = None
    expires_at: datetime | None = None
    # As they are stored. Made here, since the write path is where time counts.
    headers_json: str | None = field(default=None, init=False, repr=False, compare=False)
    id_text: str = field(default="", init=False, repr=False, compare=False)
    #: Whether it waits, or expires.
    has_timing: bool = field(default=False, init=False, repr=False, compare=False)

    def __init__(
        self,
        topic: str | Topic[T],
        payload: T | None,
        *,
        key: str | int | UUID | None = None,
        type: str | None = None,
        headers: HeadersInput | None = None,
        id: UUID | str | None = None,
        lane: str | None = None,
        content_type: str | None = None,
        deliver_at: datetime | None = None,
        delay: timedelta | None = None,
        wait_for: str | None = None,
        expires_at: datetime | None = None,
        ordering: Ordering | None = None,
    ) -> None:
        timing = (deliver_at, delay, wait_for, expires_at)
        fill(self, topic, payload, key, type, headers, id, lane, content_type, timing, ordering)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> UUID:
            """Make the id that was drawn here: few ask for it, and it takes as long as the rest."""
            if name != "id" or "id_text" not in self.__dict__:
                raise AttributeError(f"Message has no attribute {name!r}")
            made = self.__dict__["id"] = UUID(self.id_text)
            return made

    @property
    def is_scheduled(self) -> bool:
        """Return whether it waits for a time or a condition."""
        return not (self.deliver_at is None and self.delay is None and self.wait_for is None)


def fill(
    message: Message,
    topic: str | Topic[Any],
    payload: object,
    key: str | int | UUID | None,
    type: str | None,
    headers: HeadersInput | None,
    id: UUID | str | None,
    lane: str | None,
    content_type: str | None,
    timing: Timing,
    ordering: Ordering | None,
) -> Message:
    """Check what was given, set it, and return the message; the rest has its default in the class.

    On the hot path a message that is made bare is filled. To call a class by keywords costs more
    than this: Python makes a dictionary of them first.
    """
    # The path of a plain name is hot.
    if topic.__class__ is not str and isinstance(topic, Topic):
        given = _typed(topic, _Given(payload, key, type, lane, content_type, ordering))
        fill(message, topic.name, *given[:3], headers, id, *given[3:5], timing, given.ordering)
        return message
    own: dict[str, object] = {"topic": check_topic_name(topic), "payload": payload}
    if key is not None:
        own["key"] = _check_key(key)
    elif payload is None:
        raise InvalidMessage("payload None is a tombstone, which deletes its key: it needs key=")
    if id is None:
        own["id_text"] = str(uuid7())
    else:
        own["id"], own["id_text"] = check_id(id)
    if headers is not None:
        own["headers"], own["headers_json"] = check_headers(headers)
    if not (type is None and lane is None and content_type is None):
        _label(own, type, lane, content_type)
    deliver_at, delay, wait_for, expires_at = timing
    if not (deliver_at is None and delay is None and wait_for is None and expires_at is None):
        check_timing(deliver_at, delay, wait_for, expires_at)
        own |= {"deliver_at": deliver_at, "delay": delay, "wait_for": wait_for}
        own |= {"expires_at": expires_at, "has_timing": True}
    if ordering is not None:
        own["ordering"] = _check_ordering(ordering, key)
    # In one step: a frozen dataclass takes each attribute more slowly than all of them.
    message.__dict__.update(own)
    return message


def _label(
    own: dict[str, object], type: str | None, lane: str | None, content_type: str | None
) -> None:
    if type is not None:
        own["type"] = check_text("type", type)
    if lane is not None:
        own["lane"] = _check_lane(lane)
    if content_type is not None:
        own["content_type"] = check_text("content_type", content_type)


class _Given(NamedTuple):
    """What a Topic may have a default for."""

    payload: object
    key: str | int | UUID | None
    type: str | None
    lane: str | None
    content_type: str | None
    ordering: Ordering | None


def _typed(topic: Topic[Any], given: _Given) -> _Given:
    """Return what is given, completed by what the topic was declared with."""
    key, lane = given.key, given.lane or topic.lane
    ordering = given.ordering or topic.ordering
    if given.payload is None:  # says nothing of the payload's type, and deletes any of them
        return given._replace(lane=lane, ordering=ordering)
    kind = topic.kind_of(given.payload)
    return _Given(
        kind.serialized(given.payload),
        kind.key(given.payload) if key is None and kind.key is not None else key,
        given.type or kind.type,
        lane,
        given.content_type or kind.effective_content_type,
        ordering,
    )


def _check_key(key: object) -> str:
    # What is nearly always given, with one call instead of three.
    if key.__class__ is str and key.isascii() and "\0" not in key and len(key) <= MAX_KEY_BYTES:
        return key
    text = _key_text(key)
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_KEY_BYTES:
        raise InvalidMessage(
            f"key {shown(text)} has {size} bytes; at most {MAX_KEY_BYTES} fit: "
            "use an id, or a hash of what you have"
        )
    return text


def _key_text(key: object) -> str:
    if isinstance(key, str):
        return check_text("key", key)
    if isinstance(key, int) and not isinstance(key, bool):
        return int.__repr__(key)
    if isinstance(key, UUID):
        return str(key)
    raise InvalidMessage(f"key must be str, int or UUID, not {type(key).__name__}: {shown(key)}")


def check_id(id: object) -> tuple[UUID, str]:
    """Return a message's id, and its text as it is stored, or raise InvalidMessage."""
    try:
        # By way of text, so that the UUIDs of other libraries do too.
        checked = id if isinstance(id, UUID) else UUID(str(id))
    except ValueError:
        raise InvalidMessage(f"id must be a UUID, not {type(id).__name__} {shown(id)}") from None
    return checked, str(checked)


def _check_lane(lane: str) -> str:
    try:
        return check_text("lane", check_name("lane", lane))
    except ConfigurationError as error:
        raise InvalidMessage(str(error)) from None


def _check_ordering(ordering: object, key: object) -> Ordering:
    if ordering != "strict":
        raise InvalidMessage(f'ordering must be None or "strict", not {shown(ordering)}')
    if key is None:
        raise InvalidMessage('ordering="strict" orders messages of one key: it needs key=')
    return "strict"
