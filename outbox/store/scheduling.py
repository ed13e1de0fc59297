"""The seam to what waits for its time: how a relay finds what is due and moves it into the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from outbox.store.held import Action

#: For a time alone, or for a condition.
WaitingState: TypeAlias = Literal["scheduled", "waiting"]

#: States are counted up to this many; more are "more than".
SCHEDULE_COUNT_LIMIT = 10_000


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

    def agenda(self, start: Point | None, *, anew: bool = False) -> Agenda:
        """Look for the earliest message, from a point on or among all. Reads one row by an index.

        But rows that were moved away stay in its way while a transaction elsewhere may still see
        them: hence the point. An implementation may answer from its last look where it knows that
        nothing has been committed since; not with `anew`.
        """

    def move(self, start: Point, max_rows: int, max_bytes: int) -> Moved | None:
        """Move what is due, from a point on, into the log, in order; None if another one moves now.

        One transaction: either all of it has happened or nothing. Never early, by the database's
        clock. A message that its application is about to cancel is left for the next time.
        """


@dataclass(frozen=True, slots=True)
class ScheduleFilter:
    """Which waiting messages an operator means; None: whatever it is.

    `due_before`: seconds since 1970; what waits for a condition may have no time, and is left out.
    """

    topic: str | None = None
    key: str | None = None
    id: str | None = None
    condition: str | None = None
    due_before: float | None = None
    state: WaitingState | None = None

    @property
    def given(self) -> dict[str, str | float]:
        """Return what is not None, by name."""
        return {
            name: getattr(self, name)
            for name in ("topic", "key", "id", "condition", "due_before", "state")
            if getattr(self, name) is not None
        }


@dataclass(frozen=True, slots=True)
class ScheduledMessage:
    """A waiting message as an operator sees it. Times in seconds since 1970."""

    no: int
    id: str
    topic: str
    key: str | None
    type: str | None
    state: WaitingState
    due_at: float | None
    wait_for: str | None
    created_at: float
    bytes: int


@dataclass(frozen=True, slots=True)
class ScheduleStatus:
    """How much waits: counted up to SCHEDULE_COUNT_LIMIT + 1 of each state, no further.

    `next_due_seconds`: less than 0 where a message is overdue; None where none has a time.
    """

    scheduled: int
    waiting: int
    next_due_seconds: float | None


class ScheduleAdmin(Protocol):
    """What operators do with waiting messages. Each change is a short transaction with its row of
    the audit; messages that somebody else is changing just then are left alone."""

    def status(self) -> ScheduleStatus:
        """Return how much waits. Reads a bounded number of rows."""

    def count(self, which: ScheduleFilter, limit: int) -> int:
        """Return how many match, at most `limit`."""

    def find(self, which: ScheduleFilter, limit: int) -> list[ScheduledMessage]:
        """Return those that match, the first due first; those without a time come last."""

    def cancel(self, which: ScheduleFilter, limit: int, action: Action) -> int:
        """Delete up to `limit` messages; return how many."""

    def release(self, which: ScheduleFilter, limit: int, action: Action) -> int:
        """Let up to `limit` messages go that wait for a condition; return how many."""


class NothingScheduled:
    """Implements Schedule for a log without one."""

    def agenda(self, start: Point | None, *, anew: bool = False) -> Agenda:  # noqa: ARG002 - the seam's signature
        """Return that there is nothing."""
        return Agenda(None, None, start or Point(0, 0))

    def move(self, start: Point, max_rows: int, max_bytes: int) -> Moved | None:  # noqa: ARG002 - the seam's signature
        """Move nothing."""
        return Moved(0, None, full=False)
