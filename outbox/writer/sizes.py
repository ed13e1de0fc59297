"""How large a message may be."""

from __future__ import annotations

from outbox.errors import ConfigurationError, MessageTooLarge
from outbox.message import Message
from outbox.writer.insert import Row


def check_size(row: Row, message: Message, limit: int) -> None:
    """Raise MessageTooLarge where key, payload and headers together have more bytes."""
    size = _size(row, message)
    if size > limit:
        raise MessageTooLarge(
            f"the message for topic {message.topic!r} has {size:,} bytes (key, payload and "
            f"headers), the limit is {limit:,}. Store the data elsewhere and send a reference; or "
            "raise Outbox(max_message_bytes=…) together with the topic's max.message.bytes"
        )


def _size(row: Row, message: Message) -> int:
    counted = [row.get(column) for column in ("key", "payload", "type", "content_type")]
    for pair in message.headers:
        counted += pair
    return sum(
        len(value if isinstance(value, bytes) else str(value).encode())
        for value in counted
        if value is not None
    )


def check_limit(limit: int) -> int:
    """Return the limit, or raise ConfigurationError."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"max_message_bytes must be a positive int, not {limit!r}")
    return limit
