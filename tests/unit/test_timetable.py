"""When a relay looks at the schedule, and from where on."""

from __future__ import annotations

import math

import pytest

from outbox.relay.schedule import Timetable
from outbox.store.scheduling import Agenda, Moved, Point

CLEAR = Point(5_000_000, 0)
FIRST = Point(7_000_000, 3)

EMPTY = Agenda(None, None, CLEAR)


def due_in(seconds: float) -> Agenda:
    return Agenda(FIRST, seconds, CLEAR)


def looked(timetable: Timetable, agenda: Agenda, at: float, *, took: float = 0.0) -> None:
    timetable.looked(timetable.start(at), agenda, at, at + took)


def test_the_first_look_is_at_once_and_at_everything() -> None:
    timetable = Timetable(0.05)
    assert timetable.is_time(0.0)
    assert timetable.start(0.0) is None


@pytest.mark.parametrize(
    ("agenda", "next_at"),
    [(EMPTY, 10.05), (due_in(3600), 10.05), (due_in(0.02), 10.02), (due_in(-9), 10.0)],
    ids=["nothing scheduled", "due late", "due soon", "overdue"],
)
def test_the_next_look_is_when_something_is_due_and_with_every_poll_at_the_latest(
    agenda: Agenda, next_at: float
) -> None:
    timetable = Timetable(0.05)
    looked(timetable, agenda, 10.0)
    assert not timetable.is_time(next_at - 0.001)
    assert timetable.is_time(next_at)


@pytest.mark.parametrize(
    ("agenda", "rest_s"), [(EMPTY, math.inf), (due_in(3600), 3600), (due_in(-9), 0.0)]
)
def test_a_relay_may_rest_until_something_is_due(agenda: Agenda, rest_s: float) -> None:
    timetable = Timetable(0.05)
    looked(timetable, agenda, 10.0)
    assert timetable.due_in_s(10.0) == rest_s


def test_who_was_woken_too_early_for_a_look_rests_until_it_is_time() -> None:
    timetable = Timetable(0.05)
    looked(timetable, EMPTY, 10.0)
    assert not timetable.is_time(10.01)
    assert timetable.due_in_s(10.01) == pytest.approx(0.04)


def test_looks_that_are_cheap_are_at_everything() -> None:
    timetable = Timetable(0.05)
    looked(timetable, EMPTY, 10.0, took=0.0005)
    assert timetable.start(10.05) is None


def test_looks_at_everything_that_are_dear_are_rare_and_others_begin_where_it_is_clear() -> None:
    # Given a look at everything that took 40 ms
    timetable = Timetable(0.05)
    looked(timetable, EMPTY, 10.0, took=0.04)
    # Then those that follow begin where nothing is in the way
    assert timetable.start(10.1) == CLEAR
    looked(timetable, Agenda(None, None, FIRST), 10.1)
    assert timetable.start(10.2) == FIRST
    # And after twenty times as long as it took, it is time for another one
    assert timetable.start(10.839) == FIRST
    assert timetable.start(10.841) is None


def test_after_a_full_move_the_next_follows_at_once_behind_it() -> None:
    timetable = Timetable(0.05)
    looked(timetable, due_in(-1), 10.0, took=0.04)
    timetable.moved(Moved(1000, FIRST, full=True), 10.1)
    assert timetable.is_time(10.1)
    assert timetable.start(10.1) == FIRST


def test_after_any_other_move_the_next_look_decides() -> None:
    timetable = Timetable(0.05)
    looked(timetable, due_in(-1), 10.0, took=0.04)
    timetable.moved(Moved(3, FIRST, full=False), 10.1)
    assert timetable.is_time(10.1)
    assert timetable.start(10.1) == CLEAR


def test_where_another_one_moves_it_is_looked_at_with_the_next_poll() -> None:
    timetable = Timetable(0.05)
    looked(timetable, due_in(-1), 10.0)
    timetable.postpone(10.0)
    assert not timetable.is_time(10.04)
    assert timetable.is_time(10.05)
