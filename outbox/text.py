"""Text that PostgreSQL, JSON and Kafka can all hold."""

from __future__ import annotations

from outbox.errors import InvalidMessage


def check_text(what: str, text: object) -> str:
    """Return `text` as a plain str, or raise InvalidMessage naming `what` it is.

    U+0000 would abort the caller's transaction in PostgreSQL; a lone surrogate has no UTF-8.
    """
    if not isinstance(text, str):
        raise InvalidMessage(f"{what} must be str, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidMessage(f"{what} {shown(text)} contains U+0000, which PostgreSQL cannot store")
    if not text.isascii():
        _check_utf8(what, text)
    # A driver may give a str subclass another meaning: psycopg stores the *name* of a str enum.
    return text if text.__class__ is str else str.__str__(text)


def shown(value: object) -> str:
    """Return a repr that is short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def up_to(count: int, limit: int) -> str:
    """Return a number that was counted no further than just beyond a limit.

    >>> up_to(3, 10), up_to(11, 10)
    ('3', 'more than 10')
    """
    return f"more than {limit}" if count > limit else str(count)


def _check_utf8(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidMessage(
            f"{what} {shown(text)} contains a lone surrogate (position {error.start}), "
            "which UTF-8 cannot express"
        ) from None
