"""When a stream is asked again."""

from __future__ import annotations

import random

from outbox.relay.holding import Holding
from outbox.relay.seat import Seat
from outbox.store.held import HeldStore


def nothing_held() -> HeldStore:
    raise AssertionError


def seat() -> Seat:
    return Seat("default", Holding(nothing_held, None, lambda: 0.0, random.Random(7)))


def test_a_stream_with_more_at_hand_is_asked_at_once() -> None:
    made = seat()
    made.had_nothing(1000.0)
    made.had_something(1000.0, 0.015, 0.05, more=True)
    assert made.ask_at < 1000.0


def test_after_all_there_was_it_rests_for_longer_than_that_took_but_within_bounds() -> None:
    made = seat()
    made.had_something(1000.0, 0.004, 0.05, more=False)
    assert made.ask_at == 1000.024
    made.had_something(1000.0, 3.0, 0.05, more=False)
    assert made.ask_at == 1000.05


def test_a_stream_that_has_nothing_is_asked_ever_more_seldom_until_it_has_something() -> None:
    made = seat()
    rests = []
    for _ in range(7):
        made.had_nothing(0.0)
        rests.append(made.ask_at)
    assert rests == [0.001, 0.002, 0.004, 0.008, 0.016, 0.02, 0.02]
    made.had_something(0.0, 0.0, 0.05, more=False)
    made.had_nothing(0.0)
    assert made.ask_at == 0.001


def test_news_do_not_cut_the_rest_after_all_there_was_but_do_cut_others() -> None:
    made = seat()
    made.had_nothing(1000.0)
    made.ask_if_rested(1000.0)
    assert made.ask_at < 1000.0
    made.had_something(1000.0, 0.004, 0.05, more=False)
    made.ask_if_rested(1000.01)
    assert made.ask_at == 1000.024
    made.ask_if_rested(1000.024)
    assert made.ask_at < 1000.0
