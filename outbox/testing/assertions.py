"""Say what a test expects in the log. Pure; who reads the log is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from outbox.testing.complaint import missing, unwanted, wrong_count
from outbox.testing.log import AddedMessage, Row
from outbox.testing.matching import Expected


def fitting(rows: Sequence[Row], expected: Expected) -> list[AddedMessage]:
    """Return the messages that are as expected, in the order of the log."""
    return [message for row in rows if expected.fits(message := row.message)]


def the_first(rows: Sequence[Row], expected: Expected) -> AddedMessage:
    """Return the first message that is as expected, or raise AssertionError."""
    __tracebackhide__ = True
    found = fitting(rows, expected)
    if not found:
        raise AssertionError(missing(expected, [row.message for row in rows]))
    return found[0]


def exactly(rows: Sequence[Row], expected: Expected, count: int) -> list[AddedMessage]:
    """Return the messages that are as expected; raise AssertionError unless there are `count`."""
    __tracebackhide__ = True
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise TypeError(f"count must be a number of messages, not {count!r}")
    found = fitting(rows, expected)
    if len(found) != count:
        raise AssertionError(wrong_count(expected, count, found, [row.message for row in rows]))
    return found


def none_of_them(rows: Sequence[Row], expected: Expected) -> None:
    """Raise AssertionError if a message is as described."""
    __tracebackhide__ = True
    found = fitting(rows, expected)
    if found:
        raise AssertionError(unwanted(expected, found))
