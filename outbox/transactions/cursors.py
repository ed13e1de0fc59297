"""Where a statement's cursor of psycopg comes from: made for it, or kept from one call to the next.

A new cursor takes a fifth of the client's time of an INSERT, most of it to find out anew how each
type is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: In bytes and characters. A cursor holds on to its last parameters.
_MOST_HELD = 64 * 1024


class Cursors:
    """Gives what `make` makes: something that executes a statement and returns its cursor."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def take(self, _: tuple[Any, ...]) -> tuple[Any, bool]:
        """Return one for these texts and bytes that is nobody else's, and whether it may be put
        back."""
        return self._make(), False

    def put_back(self, cursor: Any) -> None:
        """Keep it for the next call. Nobody may look at it any more."""


class IdleCursor(Cursors):
    """Keeps the idle cursor of one connection."""

    def __init__(self, connection: Any, make: Callable[[], Any]) -> None:
        from psycopg.adapt import PyFormat

        super().__init__(make)
        self._adapters = connection.adapters
        self._auto = PyFormat.AUTO
        # A list for its pop, which is atomic: two threads never get the same.
        self._idle: list[Any] = []
        # What the connection writes text and bytes with; a cursor asks only once.
        self._text, self._bytes = (
            self._adapters.get_dumper(kind, self._auto) for kind in (str, bytes)
        )

    def take(self, values: tuple[Any, ...]) -> tuple[Any, bool]:
        find, auto = self._adapters.get_dumper, self._auto
        as_ever = find(str, auto) is self._text and find(bytes, auto) is self._bytes
        if not (as_ever and _is_plain(values)):
            return self._make(), False
        try:
            return self._idle.pop(), True
        except IndexError:
            return self._make(), True

    def put_back(self, cursor: Any) -> None:
        if not self._idle:
            self._idle.append(cursor)


def _is_plain(values: tuple[Any, ...]) -> bool:
    """Return whether a kept cursor does: it writes text in the encoding that it has met first, and
    only ASCII is the same in all of them."""
    size = 0
    for value in values:
        if value.__class__ is not bytes and not value.isascii():
            return False
        size += len(value)
    return size <= _MOST_HELD
