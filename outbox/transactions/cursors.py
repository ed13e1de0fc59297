"""Cursors of psycopg that are kept from one call to the next.

A new cursor takes a fifth of the client's time of an INSERT, most of it to find out anew how each
type is written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

C = TypeVar("C")

#: In bytes and characters. A cursor holds on to its last parameters.
_MOST_HELD = 64 * 1024


class IdleCursors(Generic[C]):
    """The idle cursors of one connection; there are as many as threads have shared it at once."""

    def __init__(self, connection: Any, make: Callable[[], C]) -> None:
        self._status = connection.pgconn.parameter_status
        self._make = make
        # With the encoding in which it writes text, which it asks for only once.
        self._idle: list[tuple[bytes | None, C]] = []

    def take(self) -> tuple[bytes | None, C]:
        """Return a cursor that is nobody else's, and the encoding it writes."""
        encoding = self._status(b"client_encoding")
        try:
            taken = self._idle.pop()  # atomic: two threads never get the same
        except IndexError:
            return encoding, self._make()
        return taken if taken[0] == encoding else (encoding, self._make())

    def put_back(self, taken: tuple[bytes | None, C], values: tuple[Any, ...]) -> None:
        """Keep what was taken for the next call, after a statement with these texts and bytes."""
        if sum(map(len, filter(None, values))) <= _MOST_HELD:
            self._idle.append(taken)
