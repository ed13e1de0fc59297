"""A stream of the relay's name as one process sees it: served, or to be tried again."""

from __future__ import annotations

from dataclasses import dataclass, field

from outbox.relay.holding import Holding
from outbox.relay.term import Term

#: A stream that had nothing is not asked again at once; in seconds.
_FIRST_REST_S = 0.001
_LONGEST_REST_S = 0.02

#: After all there was is sent, a stream rests for so many times what that took, but no longer than
#: an idle relay does: a plan costs as much for one message as for a hundred, and on a machine that
#: is busy, where everything takes long, it is best to make few.
_PACE = 6.0


@dataclass(slots=True)
class Seat:
    """What a relay knows of one stream; times by the relay's clock, in seconds.

    `progress_at`: when it last was neither failing nor waiting for an acknowledgement.
    `cautious`: the last term failed on the broker, and the next may do so at the same message.
    `leaving`: the stream is to go to another process. `paced_until`: how long it rests after all
    there was, whatever has come since.
    """

    stream: str
    holding: Holding
    priority: int = 0
    term: Term | None = None
    cautious: bool = False
    leaving: bool = False
    failures: int = 0
    progress_at: float = 0.0
    retry_at: float = float("-inf")
    ask_at: float = float("-inf")
    paced_until: float = float("-inf")
    _rest_s: float = field(default=_FIRST_REST_S)

    def had_nothing(self, now: float) -> None:
        """Note that there was nothing to read."""
        self.ask_at = now + self._rest_s
        self._rest_s = min(self._rest_s * 2, _LONGEST_REST_S)

    def had_something(self, now: float, took_s: float, longest_s: float, *, more: bool) -> None:
        """Note that there was, and how long it took to send it. `more`: there is more at hand.

        `longest_s`: how long a stream may rest.
        """
        self._rest_s = _FIRST_REST_S
        self.ask_at = float("-inf") if more else now + min(_PACE * took_s, longest_s)
        self.paced_until = self.ask_at

    def ask_if_rested(self, now: float) -> None:
        """Let it be asked at once, unless it rests after all there was."""
        if self.paced_until <= now:
            self.ask_at = float("-inf")
