"""Being told to stop: SIGTERM and SIGINT."""

from __future__ import annotations

import _thread
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT set `stop`, and the second of them end the process."""
    told = False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal told
        if told or stop.is_set():
            # Not sys.exit: whatever hangs now would hang in its clean-up as well.
            os._exit(128 + number)
        told = True
        # Not here: the signal may have come in the midst of `stop.wait`, which holds the lock that
        # `set` wants, and the process would wait for itself for ever. Not a `Thread`: to start one
        # takes locks too.
        _thread.start_new_thread(stop.set, ())

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
