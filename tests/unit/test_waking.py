"""How a relay waits that has nothing to do."""

from __future__ import annotations

import threading

from outbox.relay.waking import Polling, rest


class Told(Polling):
    """Waits in no time, and is told of messages at the wait of that number, if at all."""

    def __init__(self, at: int | None = None) -> None:
        self.waited: list[float] = []
        self._at = at

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waited.append(seconds)
        return stop.is_set() or len(self.waited) == self._at


def rested(waker: Told, seconds: float) -> int:
    """Return how often the lease was looked after."""
    kept: list[None] = []
    rest(waker, threading.Event(), seconds, lambda: kept.append(None), 2.0)
    return len(kept)


def test_a_short_wait_is_one_wait() -> None:
    waker = Told()
    assert rested(waker, 0.5) == 0
    assert waker.waited == [0.5]


def test_a_long_wait_looks_after_the_lease_meanwhile() -> None:
    waker = Told()
    assert rested(waker, 5.0) == 2
    assert waker.waited == [2.0, 2.0, 1.0]


def test_who_is_told_waits_no_longer() -> None:
    waker = Told(at=3)
    assert rested(waker, 3600.0) == 2
    assert waker.waited == [2.0] * 3


def test_a_relay_that_is_to_stop_waits_no_longer() -> None:
    stop = threading.Event()
    stop.set()
    assert Polling().wait(stop, 3600.0)
    rest(Polling(), stop, 3600.0, lambda: None, 1800.0)
