"""How long to wait before trying again. Pure, given a source of randomness."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with full jitter: attempt n waits up to `first_s * 2**n`, at most `max_s`.

    Full jitter spreads relays that lost the same server at the same moment.
    """

    first_s: float = 0.1
    max_s: float = 5.0

    def delay_s(self, attempt: int, draw: random.Random) -> float:
        """Return the delay in seconds before attempt number `attempt`, counted from 0."""
        bound = min(self.max_s, self.first_s * 2 ** min(attempt, 32))
        # Never quite zero: a loop without a pause would keep a server from coming back.
        return draw.uniform(bound / 4, bound)
