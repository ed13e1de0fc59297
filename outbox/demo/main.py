"""Where the demo begins, and how it ends however it ends."""

from __future__ import annotations

import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outbox.demo.verdict import Verdict


def run_demo(say: Callable[[str], None]) -> Verdict:
    """Run the demo, telling it line by line through `say`, and return what was verified.

    Leaves neither files nor processes behind, also when interrupted. Raises MissingExtra, and
    OutboxError when something does not come about in time.
    """
    from outbox.demo.story import tell

    with _quiet(), _ended_by_signals(), tempfile.TemporaryDirectory(prefix="outbox-demo-") as path:
        return tell(Path(path), say)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep log lines out of the story: a handler of ours stands in for the last resort."""
    logger, handler = logging.getLogger("outbox"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the demo as Ctrl-C does, with everything cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)
