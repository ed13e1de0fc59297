"""Wait for a condition instead of sleeping."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

FIRST_WAIT = 0.002  # seconds; doubles up to the longest
LONGEST_WAIT = 0.05


def wait_until(condition: Callable[[], Result], *, what: str, timeout: float = 30.0) -> Result:
    """Poll until `condition()` is true and return what it returned.

    Raises AssertionError, naming `what`, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    pause = FIRST_WAIT
    # The condition is asked once more after the deadline, so that a busy machine which slept
    # through it does not fail a test whose condition holds.
    while not (result := condition()):
        if time.monotonic() >= deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_WAIT)
    return result
