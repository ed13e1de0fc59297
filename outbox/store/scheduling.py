"""The seam to what waits for its time: how a relay finds what is due and moves it into the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Point(NamedTuple):
    """A point in the order in which messages become due: a time, and a number among equals.

    `at_us`: microseconds since 1970, by the database's clock.
    """

    at_us: int
    no: int


@dataclass(frozen=True, slots=True)
class Agenda:
    """The earliest message, with how many seconds remain until it is due (less than 0: overdue).

    Both are None where none is scheduled. `clear_to`: a point before which none was seen.
    """

    earliest: Point | None
    due_in_s: float | None
    clear_to: Point


@dataclass(frozen=True, slots=True)
class Moved:
    """What a move has done. `end`: behind the last message of it, None if there was none.

    `full`: it ended at one of its bounds, and more may be due.
    """

    messages: int
    end: Point | None
    full: bool


class Schedule(Protocol):
    """Messages that wait for a time. Those that wait for a condition are not seen here."""

    def agenda(self, start: Point | None) -> Agenda:
        """Look for the earliest message, from a point on or among all. Reads one row by an index.

        But rows that were moved away stay in its way while a transaction elsewhere may still see
        them: hence the point.
        """

    def move(self, start: Point, max_rows: int, max_bytes: int) -> Moved | None:
        """Move what is due, from a point on, into the log, in order; None if another one moves now.

        One transaction: either all of it has happened or nothing. Never early, by the database's
        clock. A message that its application is about to cancel is left for the next time.
        """


class NothingScheduled:
    """Implements Schedule for a log without one."""

    def agenda(self, start: Point | None) -> Agenda:
        """Return that there is nothing."""
        return Agenda(None, None, start or Point(0, 0))

    def move(self, start: Point, max_rows: int, max_bytes: int) -> Moved | None:  # noqa: ARG002 - the seam's signature
        """Move nothing."""
        return Moved(0, None, full=False)
