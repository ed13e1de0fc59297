"""What takes the place of a held message: its content with an operator's changes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outbox.errors import InvalidMessage, MessageRefused
from outbox.headers import EDITED_FROM, is_reserved, stored_headers, user_headers
from outbox.message import Message
from outbox.store.held import Edition
from outbox.writer.outbox import MAX_MESSAGE_BYTES
from outbox.writer.sizes import check_size

if TYPE_CHECKING:
    from outbox.headers import WireHeaders
    from outbox.record import Record
    from outbox.writer.insert import Row


#: Bytes for a key, a type and headers.
_ROOM = 4096


@dataclass(frozen=True, slots=True)
class Changes:
    """What an operator wants otherwise; None: as it is.

    `headers` take the place of those of the same name, `without` are left out, and `clear` leaves
    out all that the message had.
    """

    payload: bytes | None = None
    topic: str | None = None
    key: str | None = None
    type: str | None = None
    content_type: str | None = None
    headers: Mapping[str, str] | None = None
    without: tuple[str, ...] = ()
    clear: bool = False


def edited(old: Record, changes: Changes, limit: int = MAX_MESSAGE_BYTES) -> Edition:
    """Return the message that is to go instead, with an id of its own.

    What is changed is checked as `add` checks it. The header EDITED_FROM names the message that the
    application wrote, also where that was edited before. Raises InvalidMessage.
    """
    payload = old.payload if changes.payload is None else changes.payload
    message = Message(
        changes.topic or old.topic,
        payload,
        key=old.key if changes.key is None else changes.key,
        type=changes.type or old.type,
        content_type=changes.content_type or old.content_type,
        headers=changes.headers or None,
    )
    kept = _kept(old, changes)
    row: Row = {
        "key": message.key,
        "payload": payload,
        "type": message.type,
        "content_type": message.content_type,
    }
    # What the application was allowed to write may be larger than what is usual.
    check_size(row, message, max(limit, len(old.payload or b"") + _ROOM))
    own: WireHeaders = [(name, value.encode()) for name, value in message.headers]
    origin: WireHeaders = [(EDITED_FROM, _origin(old).encode())]
    return Edition(
        message.id_text,
        message.topic,
        message.key,
        payload,
        message.type,
        message.content_type,
        stored_headers([*kept, *own, *origin]),
    )


def _kept(old: Record, changes: Changes) -> WireHeaders:
    """Return the headers that stay."""
    if changes.clear:
        return []
    gone = {*changes.without, *(changes.headers or {})}
    try:
        pairs = user_headers(old.headers or "[]")
    except MessageRefused as error:
        raise InvalidMessage(f"{error}: leave them out with --clear-headers") from error
    names = {name for name, _ in pairs}
    if unknown := [name for name in changes.without if name not in names]:
        raise InvalidMessage(f"the message has no header {unknown[0]!r} that could be left out")
    return [pair for pair in pairs if pair[0] not in gone and not is_reserved(pair[0])]


def _origin(old: Record) -> str:
    """Return the id of the message that the application wrote."""
    try:
        pairs = json.loads(old.headers or "[]")
        return next(str(value) for name, value in pairs if name == EDITED_FROM)
    except (ValueError, TypeError, StopIteration):
        return old.id
