"""What a relay does beside its work: give back the space of old messages."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from outbox.errors import DatabaseUnavailable, OutboxError

if TYPE_CHECKING:
    from outbox.relay.term import Clock
    from outbox.store.base import Slice, Store

logger = logging.getLogger("outbox.relay")

#: What comes in small steps goes on after so many seconds.
_NEXT_STEP_S = 0.1


class Housekeeping:
    """Prunes the log every so many seconds, while its relay holds a lane."""

    def __init__(self, store: Store, clock: Clock, every_s: float) -> None:
        self._store = store
        self._clock = clock
        self._every_s = every_s
        self._due_at = clock() + every_s
        self._complaint = ""
        self._removing = False

    def turn(self) -> None:
        """Prune if it is time to. Raises DatabaseUnavailable only: nothing else may stop a relay
        whose own work goes well."""
        if self._clock() < self._due_at:
            return
        self._due_at = self._clock() + self._every_s
        try:
            slices = self._store.prune()
        except DatabaseUnavailable:
            raise
        except OutboxError as error:
            self._complain(str(error))
            return
        self._complaint = ""
        self._note([part for part in slices if part.kept is None])

    def _note(self, removed: list[Slice]) -> None:
        if removed:
            self._due_at = self._clock() + min(_NEXT_STEP_S, self._every_s)
        if not self._removing:  # told at the first of many steps
            for part in removed:
                _tell(part)
        self._removing = bool(removed)

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            logger.warning(
                "old messages are not removed: %s", text, extra={"event": "relay.prune_failed"}
            )
        self._complaint = text


def _tell(part: Slice) -> None:
    logger.info(
        "removed %s, %d bytes of messages older than the retention",
        part.name,
        part.bytes,
        extra={"event": "relay.pruned"},
    )
