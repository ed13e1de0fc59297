"""How a relay waits that has nothing to do, and who may wake it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

#: For so long, in seconds, nobody minds that a relay does not stop.
_SHORT_S = 0.05


class Waker(Protocol):
    """Waits in the relay's thread. What it is told from elsewhere may cut the waiting short."""

    def patience_s(self, seconds: float) -> float:
        """Return how long to wait in all, where a relay that is told nothing waits `seconds`."""

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait up to `seconds`; return whether to wait no longer.

        That is when `stop` is set, or when messages may have been written since the last return.
        """


class Polling:
    """Nobody tells when there are messages; implements Waker."""

    def patience_s(self, seconds: float) -> float:
        """Return just that."""
        return seconds

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait for `stop` alone."""
        if seconds > _SHORT_S:
            return stop.wait(seconds)
        time.sleep(seconds)  # a third of what the event takes; it is what an idle relay does
        return stop.is_set()

    def __enter__(self) -> Polling:
        return self

    def __exit__(self, *_: object) -> None: ...


def rest(
    waker: Waker,
    stop: threading.Event,
    seconds: float,
    keep: Callable[[], None],
    every_s: float,
    due_s: float = math.inf,
) -> None:
    """Wait until it is time to look at the log again, or something is due, in `due_s` seconds.

    Calls `keep` every `every_s` seconds: a lease ends sooner than a long poll interval.
    """
    left = min(waker.patience_s(seconds), due_s)
    while not waker.wait(stop, min(left, every_s)):
        left -= every_s
        if left <= 0:
            return
        keep()
