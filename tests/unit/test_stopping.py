"""A signal stops a command, at whatever instant it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from outbox.cli.stopping import stopped_by_signals
from tests.waiting import wait_until


class WaitingEvent(threading.Event):
    """An event that is told of a signal in the midst of `wait`, where it holds its lock."""

    def wait(self, timeout: float | None = None) -> bool:
        with self._cond:  # type: ignore[attr-defined] # the lock that Event.wait takes
            os.kill(os.getpid(), signal.SIGTERM)
        return super().wait(timeout)


@pytest.mark.timeout(20)
def test_a_signal_that_comes_while_the_event_is_locked_does_not_hang() -> None:
    stop = WaitingEvent()
    with stopped_by_signals(stop):
        assert stop.wait(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event(number: int) -> None:
    stop = threading.Event()
    with stopped_by_signals(stop):
        os.kill(os.getpid(), number)
        wait_until(stop.is_set, what="the event to be set")


SIGNALLED_TWICE = """
import os, signal, threading
from outbox.cli.stopping import stopped_by_signals
with stopped_by_signals(threading.Event()):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
"""


def test_the_second_signal_ends_the_process() -> None:
    """Also before the first has set the event."""
    ended = subprocess.run([sys.executable, "-c", SIGNALLED_TWICE], timeout=20, check=False)
    assert ended.returncode == 128 + signal.SIGTERM
