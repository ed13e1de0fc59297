"""One term's care that a message does not kill relay after relay. Pure: no clock, no I/O."""

from __future__ import annotations

import random

from outbox.store.trail import Trail

#: For how long, in seconds, nothing is handed over before a message with which a relay has died:
#: at random, so that what kills relays at a certain time of their lives does not meet it there.
_REST_S = (0.5, 3.0)

#: How many messages are handed over together as long as none is a suspect.
_STEP = 100


class Caution:
    """What one term does about relays that died before it. Of no cost where none did.

    `window`: how many messages the relays before may have had on their way at most.
    """

    def __init__(self, trail: Trail, window: int, now: float, draw: random.Random) -> None:
        self._trail = trail
        self._left = window if trail.is_careful else 0
        rests = trail.is_on_to_one and trail.deaths > 0
        self._rest_until = now + draw.uniform(*_REST_S) if rests else now
        self._has_caught_up = False
        #: The message that this term has noted last.
        self.handed: int | None = None

    @property
    def is_on(self) -> bool:
        """Return whether few messages go at a time, the last of them noted first."""
        return self._left > 0

    @property
    def step(self) -> int:
        """Return how many messages may be handed over together while it is on."""
        return 1 if self._trail.is_on_to_one else _STEP

    def rest_s(self, now: float) -> float:
        """Return for how long nothing is to be handed over; 0 where anything may."""
        return max(self._rest_until - now, 0.0) if self.is_on else 0.0

    def deaths_by(self, seq: int) -> int:
        """Return how many relays a message has killed, 0 as long as it may be chance."""
        return self._trail.deaths if self.is_on and self._trail.proves(seq) else 0

    def acquit(self) -> None:
        """Let no message be a suspect any more."""
        self._trail = Trail(self._trail.crashes)

    def passed(self, messages: int) -> bool:
        """Note that messages were delivered; return whether the suspect was the last of them."""
        self._left = max(self._left - messages, 0)
        return messages > 0 and self.handed is not None and self.handed == self._trail.suspect

    def caught_up(self) -> None:
        """Note that nothing is left that relays before can have died of."""
        self._left = 0
        self._has_caught_up = True

    @property
    def remembers(self) -> bool:
        """Return whether relays have died before that are not forgotten yet."""
        return self._trail.crashes > 0

    def forgives(self, *, moved: bool) -> bool:
        """Return whether the deaths before are to be forgotten.

        `moved`: the cursor has moved in this term. Else it must have caught up: to have lived for a
        while means nothing before anything was handed over.
        """
        return self.remembers and not self.is_on and (moved or self._has_caught_up)

    def forget(self) -> None:
        """Forget the deaths before."""
        self._trail = Trail()
