"""What is known of relays that died at one place of the log, and of the message that killed them.

Pure; both stores keep it in the cursor's row. A relay that dies leaves nothing behind but what it
had written before, so the question is which evidence is enough to hold a message for it:

- Deaths at an unchanged cursor alone prove nothing. They make the next relay careful: it hands over
  a few messages at a time, and first notes the last of them. If it dies all the same, the next one
  takes messages one by one up to there.
- A death with one message noted may be chance: while a relay is careful, some message always is.
- So the next relay first rests, with nothing handed over, for a random while. If something else
  kills relays it strikes then, mostly, and the message is cleared of all suspicion. Only what dies
  of the same message again and again, and never before it, is the message's fault.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: From so many deaths at an unchanged cursor on few messages are handed over at a time.
CAREFUL_AFTER = 3

#: So many deaths in a row with the same message handed over, each but the first after a rest that
#: the relay survived, are its fault.
PROVEN_AFTER = 4


@dataclass(frozen=True, slots=True)
class Trail:
    """What relays of a stream have left behind.

    `crashes`: how many have died since the cursor last moved, or all was delivered. `handed`: the
    number of the message that is being handed to the publisher, with those before it; None where
    nothing was noted. `suspect`, `deaths`: with which message the last relays died, and how many
    of them did with it alone; 0 where it may as well have been one before it.
    """

    crashes: int = 0
    handed: int | None = None
    suspect: int | None = None
    deaths: int = 0

    @property
    def is_careful(self) -> bool:
        """Return whether few messages are to be handed over at a time."""
        return self.crashes >= CAREFUL_AFTER

    @property
    def is_on_to_one(self) -> bool:
        """Return whether messages are to be handed over one by one."""
        return self.is_careful and self.suspect is not None

    def proves(self, seq: int) -> bool:
        """Return whether it is certain that a message kills relays."""
        return seq == self.suspect and self.deaths >= PROVEN_AFTER

    def after_death(self) -> Trail:
        """Return what is known once it shows that a relay has died.

        >>> Trail(crashes=3, handed=7, suspect=7, deaths=1).after_death()
        Trail(crashes=4, handed=None, suspect=7, deaths=2)
        >>> Trail(crashes=4, handed=None, suspect=7, deaths=2).after_death()
        Trail(crashes=5, handed=None, suspect=None, deaths=0)
        """
        crashes = self.crashes + 1
        if self.handed is None:
            return Trail(crashes)
        if self.suspect is None:
            return Trail(crashes, None, self.handed)
        again = self.handed == self.suspect
        return Trail(crashes, None, self.handed, self.deaths + 1 if again else 1)

    def after_end(self) -> Trail:
        """Return what is known after a term whose process lives, or has ended in order."""
        return replace(self, handed=None)


def follow(trail: Trail, holder: str | None, owner: str) -> Trail:
    """Return what is known when `owner` takes a stream that was `holder`'s, if anybody's."""
    return trail.after_end() if holder in (None, owner) else trail.after_death()
