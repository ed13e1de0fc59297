"""What a relay may read now: as much as its limit leaves, of what nobody has paused."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from outbox.relay.pace import Pace
from outbox.store.pauses import Pauses

if TYPE_CHECKING:
    from outbox.relay.observer import Observer
    from outbox.relay.pace import Allowance
    from outbox.relay.settings import RelaySettings
    from outbox.relay.term import Clock, Step
    from outbox.store.base import Store

logger = logging.getLogger("outbox.relay")


class Gate:
    """Holds back one relay process. The limit is for all of its streams together, so that the one
    with the highest priority takes what there is."""

    def __init__(self, settings: RelaySettings, clock: Clock, observer: Observer) -> None:
        self._relay = settings.name
        self._holds = settings.retry is not None
        self._clock = clock
        self._observer = observer
        self._pace = _pace(settings, clock())
        self._allowance: Allowance | None = None
        self._limited = False
        self._pauses = Pauses(settings.name)
        self._paused: frozenset[str] = frozenset()

    # The limit

    @property
    def is_open(self) -> bool:
        """Return whether the limit lets anything go now."""
        if self._pace is None:
            return True
        self._allowance = self._pace.allowance(self._clock())
        if self._allowance is None:
            self._say_limited(True)
        return self._allowance is not None

    @property
    def allowance(self) -> Allowance | None:
        """Return what a page may be while the gate is open; None where there is no limit."""
        return self._allowance

    def passed(self, step: Step) -> None:
        """Note what was read."""
        if self._pace is not None:
            self._pace.spend(step.read, step.bytes)

    def was_idle(self) -> None:
        """Note that every stream was asked and nothing is left to send."""
        self._say_limited(False)

    @property
    def due_in_s(self) -> float:
        """Return for how long the limit lets nothing go; infinite where it holds nothing back."""
        if self._pace is None or not self._limited:
            return float("inf")
        return self._pace.wait_s(self._clock())

    def _say_limited(self, limited: bool) -> None:
        if limited != self._limited:
            self._limited = limited
            self._observer.limited(limited)

    # What is paused

    def look(self, store: Store, streams: Iterable[str]) -> None:
        """Ask what is paused of these streams, and say what changed."""
        self._pauses = store.paused(self._relay)
        paused = frozenset(stream for stream in streams if self._stops(stream))
        for stream in sorted(paused - self._paused):
            self._say(stream, "paused", "is paused: nothing of it is sent")
        for stream in sorted(self._paused - paused):
            self._say(stream, "resumed", "is paused no more")
        self._paused = paused
        self._observer.paused(paused)

    def _stops(self, stream: str) -> bool:
        """Return whether nothing of a stream may go. Who holds nothing back beside the log must
        stop all of it for a topic that is paused."""
        if self._pauses.stop(stream):
            return True
        return not self._holds and bool(self._pauses.topics(stream))

    def paused_topics(self, stream: str) -> frozenset[str]:
        """Return the topics of a stream that are to be held while the others go."""
        return self._pauses.topics(stream)

    def _say(self, stream: str, event: str, what: str) -> None:
        logger.info(
            "relay %s: lane %s %s", self._relay, stream, what, extra={"event": f"relay.{event}"}
        )

    @property
    def paused(self) -> frozenset[str]:
        """Return the streams of the relay name of which nothing is sent."""
        return self._paused


def _pace(settings: RelaySettings, now: float) -> Pace | None:
    messages, size = settings.max_messages_per_second, settings.max_bytes_per_second
    return None if messages is size is None else Pace(messages, size, now)
