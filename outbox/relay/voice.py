"""What a relay says of its state, to the log and to its observer: once for each change."""

from __future__ import annotations

import logging

from outbox.errors import BrokerUnavailable, DatabaseUnavailable
from outbox.publishers.base import TopicUnavailable
from outbox.relay.observer import Observer
from outbox.store.base import Lease
from outbox.store.lanes import DEFAULT_LANE

logger = logging.getLogger("outbox.relay")


class Voice:
    """Speaks for one relay. Trouble is of one stream, or of all of them (the database's)."""

    def __init__(self, relay: str, observer: Observer) -> None:
        self._relay = relay
        self._observer = observer
        self._troubles: dict[str, str] = {}
        # What was said of each trouble: one may show itself in several ways before it is over.
        self._said: dict[str, set[tuple[str, str]]] = {}

    def in_trouble(self, of: str) -> bool:
        """Return whether something is waited for."""
        return of in self._troubles

    def lane_taken(self, lease: Lease) -> None:
        """Say that a lane is held, unless that is only the next attempt."""
        self._observer.began_term(lease.lane, lease.epoch)
        if lease.trail.is_careful:
            logger.warning(
                "%d relays in a row have died at this place of %s: few messages go at a time from"
                " here, until it is known whether one of them kills the relay",
                lease.trail.crashes,
                _named(lease.lane),
                extra={"event": "relay.careful"},
            )
        if lease.lane not in self._troubles:
            logger.info(
                "relay %s holds %s, epoch %d, from batch %d",
                lease.relay,
                _named(lease.lane),
                lease.epoch,
                lease.position.batch,
                extra={"event": "relay.lane_taken"},
            )

    def lane_given_back(self, stream: str, why: str) -> None:
        """Say that a lane is not held any more, and that nothing is wrong."""
        logger.info(
            "relay %s gives %s back: %s",
            self._relay,
            _named(stream),
            why,
            extra={"event": "relay.lane_given_back"},
        )

    def lane_lost(self, stream: str) -> None:
        """Say that somebody else has taken a lane."""
        self._observer.lost_lease()
        logger.warning(
            "relay %s lost %s and sends nothing more of it until it holds it again",
            self._relay,
            _named(stream),
            extra={"event": "relay.lane_lost"},
        )

    def stands_by(self) -> None:
        """Say that other processes hold all lanes."""
        logger.info(
            "relay %s is on standby: another process holds the lane",
            self._relay,
            extra={"event": "relay.standby"},
        )

    def waits(self, of: str, what: str, sentence: str, why: str = "") -> None:
        """Say once what is waited for: the "database", the "broker" or a "topic"; and again where
        the reason is of another kind by now: after a connection that broke, a standby, say."""
        self._observer.troubled(what, sentence)
        said = self._said.setdefault(of, set())
        if self._troubles.get(of) != what or (what, why) not in said:
            logger.warning("%s; waiting", sentence, extra={"event": "relay.waiting"})
        said.add((what, why))
        self._troubles[of] = what

    def is_well(self, of: str) -> None:
        """Say, if something was waited for, that it is there again."""
        self._said.pop(of, None)
        if self._troubles.pop(of, None) is not None:
            logger.info("going on", extra={"event": "relay.going_on"})
        if not self._troubles:
            self._observer.recovered()

    def forget(self, of: str) -> None:
        """Let it be another process's affair what a stream waits for."""
        self._troubles.pop(of, None)
        self._said.pop(of, None)
        if not self._troubles:
            self._observer.recovered()


def _named(stream: str) -> str:
    """Return how to call a stream: most logs have one lane only."""
    return "the lane" if stream == DEFAULT_LANE else f"lane {stream}"


def awaited(error: DatabaseUnavailable | BrokerUnavailable) -> str:
    """Return what an error makes a relay wait for."""
    if isinstance(error, DatabaseUnavailable):
        return "database"
    return "topic" if isinstance(error, TopicUnavailable) else "broker"
