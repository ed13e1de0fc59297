"""Moving what is due into the log: when to look, and from where."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from outbox.errors import DatabaseUnavailable, OutboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.relay.term import Clock
    from outbox.store.scheduling import Agenda, Moved, Point, Schedule

logger = logging.getLogger("outbox.relay")

#: A relay that turns more often, since it has work or is woken, looks at the schedule this often at
#: the most; in seconds.
_EVERY_S = 0.05

#: Looking at all of the schedule takes this part of the time, at the most.
_WHOLE_LOOKS = 0.05

#: And looking at all takes this part; but this many seconds between two looks are always enough.
_LOOKS, _LONGEST_S = 0.01, 0.2

_MOST_ROWS = 1_000
_MOST_BYTES = 4 * 1024 * 1024


class Timetable:
    """Decides when to look at the schedule, and from where on. Pure: no clock, no I/O.

    While some transaction may still see them, rows that were moved stay at the front of the index,
    and a look has to pass them all: 100,000 of them take 10 ms and more. So a look begins where the
    one before found nothing any more. What is committed with an earlier time (who schedules
    something and commits after it was due) would never be found so: hence looks at the whole, as
    often as their share of the time allows. That is every time where nothing is in the way.
    """

    def __init__(self, every_s: float) -> None:
        """`every_s`: how much time may pass between two looks."""
        self._every_s = every_s
        self._next_at = float("-inf")
        self._whole_at = float("-inf")
        self._due_at = float("inf")
        self._start: Point | None = None

    def is_time(self, now: float) -> bool:
        """Return whether to look. Who asks too early has a reason, and should ask again."""
        if now < self._next_at:
            self._due_at = min(self._due_at, self._next_at)
        return now >= self._next_at

    def due_in_s(self, now: float) -> float:
        """Return in how many seconds something is due, as far as is known, or to be looked for."""
        return max(self._due_at - now, 0.0)

    def start(self, now: float) -> Point | None:
        """Return from where on to look; None: at all of it."""
        return None if now >= self._whole_at else self._start

    def looked(self, start: Point | None, agenda: Agenda, began: float, ended: float) -> None:
        """Note what a look has found, and how long it took."""
        if start is None:
            self._whole_at = ended + (ended - began) / _WHOLE_LOOKS
        self._start = agenda.clear_to
        due_in_s = float("inf") if agenda.due_in_s is None else max(agenda.due_in_s, 0.0)
        self._due_at = ended + due_in_s
        every_s = max(self._every_s, min((ended - began) / _LOOKS, _LONGEST_S))
        self._next_at = min(self._due_at, ended + every_s)

    def moved(self, moved: Moved, now: float) -> None:
        """Note a move: what was not moved for its bounds is moved next, at once."""
        self._next_at = self._due_at = now
        if moved.full:
            self._start = moved.end

    def postpone(self, now: float) -> None:
        """Note that somebody else is at work, or that it failed."""
        self._next_at = self._due_at = now + self._every_s


class Scheduler:
    """Moves what is due into the log, while its relay holds a lane.

    The relays of a log share this work, whatever their names are: the database lets one at a time.
    """

    def __init__(self, schedule: Callable[[], Schedule], clock: Clock, every_s: float) -> None:
        self._schedule = schedule
        self._clock = clock
        self._every_s = min(every_s, _EVERY_S)
        self._timetable = Timetable(self._every_s)
        self._rows = _MOST_ROWS
        self._anew = False
        self._complaint = ""

    def turn(self) -> None:
        """Look and move if it is time to. Raises DatabaseUnavailable only: nothing else may stop a
        relay whose own work goes well."""
        if not self._timetable.is_time(self._clock()):
            return
        try:
            self._look()
        except DatabaseUnavailable:
            raise
        except OutboxError as error:
            self._timetable.postpone(self._clock())
            self._complain(str(error))
            return
        self._complaint = ""

    def due_in_s(self) -> float:
        """Return how long a relay that has nothing to do may rest."""
        return self._timetable.due_in_s(self._clock())

    def begin_anew(self) -> None:
        """Look and move at once, whenever that was done last."""
        self._timetable = Timetable(self._every_s)
        self._anew = True
        self.turn()

    def _look(self) -> None:
        schedule, began = self._schedule(), self._clock()
        start = self._timetable.start(began)
        agenda, self._anew = schedule.agenda(start, anew=self._anew), False
        self._timetable.looked(start, agenda, began, self._clock())
        if agenda.earliest is not None and agenda.due_in_s is not None and agenda.due_in_s <= 0:
            self._move(schedule, agenda.earliest)

    def _move(self, schedule: Schedule, earliest: Point) -> None:
        moved = schedule.move(earliest, self._rows, _MOST_BYTES)
        if moved is None:
            # Another one moves, or something is in the way; then fewer at a time may pass it.
            self._rows = max(self._rows // 2, 1)
            self._timetable.postpone(self._clock())
            return
        self._rows = min(self._rows * 2, _MOST_ROWS)
        self._timetable.moved(moved, self._clock())
        if moved.messages:
            logger.debug(
                "moved %d scheduled messages into the log",
                moved.messages,
                extra={"event": "relay.scheduled_moved"},
            )

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            logger.warning(
                "scheduled messages are not sent: %s",
                text,
                extra={"event": "relay.schedule_failed"},
            )
        self._complaint = text
