"""How much a relay with a limit may send now: token buckets, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: What was not used is kept for so long, in seconds: the longest burst above the rate.
BURST_S = 1.0

#: After a bucket has run empty nothing goes until it has filled for so long, in seconds: pages of
#: one message each would cost the database more than they are worth.
_GULP_S = 0.1

#: Less than this is a rounding error, in seconds.
_TINY_S = 1e-9

#: More than any page is.
_NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Allowance:
    """The most that a page may be."""

    messages: int
    bytes: int


class _Bucket:
    """Fills at `rate` a second, up to what BURST_S brings, and at the least one."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.capacity = max(rate * BURST_S, 1.0)
        self.enough = max(rate * _GULP_S, 1.0)
        self.level = self.capacity

    def fill(self, seconds: float) -> None:
        self.level = min(self.level + self.rate * seconds, self.capacity)

    @property
    def lacking_s(self) -> float:
        """The time until there is enough for a page."""
        return max((self.enough - self.level) / self.rate, 0.0)


class Pace:
    """Keeps to a rate of messages and one of payload bytes; None is no limit.

    A message larger than what the bytes allow goes alone and is paid for afterwards, so that it
    holds the relay up and does not stop it for ever.
    """

    def __init__(self, messages_per_s: float | None, bytes_per_s: float | None, now: float) -> None:
        self._messages = None if messages_per_s is None else _Bucket(messages_per_s)
        self._bytes = None if bytes_per_s is None else _Bucket(bytes_per_s)
        self._filled_at = now

    def wait_s(self, now: float) -> float:
        """Return for how long nothing may be sent; 0 if a page may go now."""
        self._fill(now)
        return max((bucket.lacking_s for bucket in self._buckets), default=0.0)

    def allowance(self, now: float) -> Allowance | None:
        """Return what a page may be now; None where none may go."""
        if self.wait_s(now) > _TINY_S:
            return None
        return Allowance(_whole(self._messages), _whole(self._bytes))

    def spend(self, messages: int, size: int) -> None:
        """Note what was sent."""
        for bucket, amount in ((self._messages, messages), (self._bytes, size)):
            if bucket is not None:
                bucket.level -= amount

    @property
    def _buckets(self) -> list[_Bucket]:
        return [bucket for bucket in (self._messages, self._bytes) if bucket is not None]

    def _fill(self, now: float) -> None:
        """Let time pass; a clock that goes back brings nothing, and takes nothing."""
        seconds = max(now - self._filled_at, 0.0)
        self._filled_at = now
        for bucket in self._buckets:
            bucket.fill(seconds)


def _whole(bucket: _Bucket | None) -> int:
    if bucket is None:
        return _NO_LIMIT
    return max(math.floor(bucket.level + bucket.rate * _TINY_S), 1)
