"""The relay: take the lane, serve a term, and begin again whatever ends it."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from outbox.errors import BrokerUnavailable, DatabaseUnavailable, MessageRefused, OutboxError
from outbox.publishers.base import Publisher, TopicUnavailable
from outbox.relay.backoff import Backoff
from outbox.relay.housekeeping import Housekeeping
from outbox.relay.observer import Observer, Unobserved
from outbox.relay.settings import RelaySettings
from outbox.relay.term import Clock, Step, Term, elapsed_clock
from outbox.relay.waking import Polling, Waker, rest
from outbox.store.base import Lease, LeaseLost, Store
from outbox.store.owner import new_owner

logger = logging.getLogger("outbox.relay")

LANE = "default"

#: A relay on standby looks this often, in seconds, whether the lane is free.
_STANDBY_INTERVAL_S = 0.2

#: A broker that has not answered for this long, in seconds, is worth a warning.
_SILENCE_S = 1.0

#: After work the relay looks again at once, then ever more slowly; in seconds.
_FIRST_WAIT_S = 0.001
_WAIT_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Pass:
    """What `run_once` did, in messages. `held_by_another`: another process has the lane."""

    read: int = 0
    delivered: int = 0
    held_by_another: bool = False


class Relay:
    """Moves messages from a log to a broker.

    `make_publisher` is called for every term, since a producer that has failed once is of no
    further use. One thread at a time; a signal handler may set `stop`.
    """

    def __init__(
        self,
        store: Store,
        make_publisher: Callable[[], Publisher],
        settings: RelaySettings | None = None,
        *,
        clock: Clock = elapsed_clock,
        observer: Observer | None = None,
        waker: Waker | None = None,
    ) -> None:
        self._store = store
        self._waker = waker or Polling()
        self._observer = observer or Unobserved()
        self._make_publisher = make_publisher
        self._settings = settings or RelaySettings()
        self._clock = clock
        self._owner = ""  # a name of this process, and between here and there may be a fork
        self._backoff = Backoff()
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._term: Term | None = None
        self._heartbeat_at = float("-inf")
        self._state = ""
        self._trouble: str | None = None
        self._progress_at = clock()
        self._cautious = False
        self._housekeeping = Housekeeping(store, clock, self._settings.prune_interval_s)

    # One pass, for tests, cron jobs and embedding

    def run_once(self) -> Pass:
        """Send what is committed now and wait until it is acknowledged and saved.

        Keeps the lane until `close`. Raises DatabaseUnavailable, BrokerUnavailable (also when no
        acknowledgement came for `connect_timeout_s`), MessageRefused or ConfigurationError; calling
        again begins anew.
        """
        self._progress_at = self._clock()
        try:
            if self._term is None and not self._begin_term():
                return Pass(held_by_another=True)
            return self._pass(self._current_term)
        except (OutboxError, LeaseLost) as error:
            self._cautious |= isinstance(error, BrokerUnavailable)
            self._end_term()
            if isinstance(error, LeaseLost):
                return Pass(held_by_another=True)
            raise

    def _pass(self, term: Term) -> Pass:
        read = delivered = 0
        while True:
            step = term.step(0.05)
            self._note(term, step)
            self._give_up_if_stalled(term)
            read += step.read
            delivered += step.delivered
            if not step.read and not term.in_flight:
                break
        if term.unsaved:
            term.save()
        return Pass(read, delivered)

    def close(self) -> None:
        """Give the lane back and close the connections. Never raises."""
        self._end_term()
        with suppress(OutboxError), self._observer.waiting("database"):
            self._store.forget_process(self._settings.name, self._owner)
        self._store.close()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # For good

    def run(self, stop: threading.Event, *, drain: bool = False) -> None:
        """Relay until `stop` is set, or with `drain` until what is committed now is delivered.

        Waits for servers that are away and never gives up on them, except that a drain does so
        after `connect_timeout_s`. Raises what waiting cannot mend: ConfigurationError,
        MessageRefused, LogInconsistent, a schema that is missing or does not fit.
        """
        goal = _Goal(self._store, self._settings, self._clock) if drain else None
        attempt = 0
        self._progress_at = self._clock()
        try:
            while not stop.is_set():
                try:
                    return self._serve(stop, goal)
                except LeaseLost:
                    self._say_lost()
                    stop.wait(_STANDBY_INTERVAL_S)
                except MessageRefused:
                    self._observer.refused()
                    raise
                except (DatabaseUnavailable, BrokerUnavailable) as error:
                    self._cautious |= isinstance(error, BrokerUnavailable)
                    self._observer.failed(_awaited(error))
                    if drain and self._stalled:
                        raise
                    attempt = attempt + 1 if self._trouble is not None else 0
                    self._wait_out(error, attempt, stop)
        finally:
            self.close()

    def _serve(self, stop: threading.Event, goal: _Goal | None) -> None:
        """Wait for the lane, then hold it until told to stop, or the goal is reached."""
        try:
            while not self._begin_term(goal):
                if goal is not None and self._reached(goal):
                    return
                self._observer.stands_by()
                self._show("standby")
                if stop.wait(_STANDBY_INTERVAL_S):
                    return
                # Who waits for another relay has not been let down by the broker.
                self._progress_at = self._clock()
            self._relay(self._current_term, stop, goal)
            self._current_term.finish(self._settings.drain_timeout_s)
        finally:
            self._end_term()

    def _relay(self, term: Term, stop: threading.Event, goal: _Goal | None) -> None:
        wait_s = _FIRST_WAIT_S
        while not stop.is_set():
            step = term.step(wait_s)
            self._note(term, step)
            if goal is not None:
                at_once = step.idle and not term.in_flight and not term.unsaved
                if self._reached(goal, at_once=at_once):
                    return
                self._give_up_if_stalled(term)
            if not step.idle:
                wait_s = _FIRST_WAIT_S
                continue
            if not term.in_flight:
                every_s = self._settings.lease_s / 4
                rest(self._waker, stop, wait_s, lambda: self._note(term, Step()), every_s)
            wait_s = min(wait_s * _WAIT_GROWTH, self._settings.poll_interval_s)

    def _reached(self, goal: _Goal, *, at_once: bool = True) -> bool:
        with self._observer.waiting("database"):
            return goal.reached(at_once=at_once)

    # Terms

    @property
    def _current_term(self) -> Term:
        if self._term is None:
            raise LeaseLost(self._settings.name)
        return self._term

    def _begin_term(self, goal: _Goal | None = None) -> bool:
        """Take the lane if it is free, and reach the broker."""
        with self._observer.waiting("database"):
            lease, asked_at = self._ask_for_lane(goal)
            if lease is None:
                return False
            self._term = self._new_term(lease, asked_at)
        self._cautious = False
        self._observer.began_term(lease.epoch)
        if self._trouble is None:
            logger.info(
                "relay %s holds the lane, epoch %d, from batch %d",
                lease.relay,
                lease.epoch,
                lease.position.batch,
                extra={"event": "relay.lane_taken"},
            )
        self._show("relaying")
        return True

    def _ask_for_lane(self, goal: _Goal | None) -> tuple[Lease | None, float]:
        """Return the lease, and when it was asked for."""
        self._store.connect()
        self._observer.connected()
        self._owner = self._owner or new_owner()
        if goal is not None:
            goal.set()
        asked_at = self._clock()
        name, lease_s = self._settings.name, self._settings.lease_s
        return self._store.acquire(name, LANE, self._owner, lease_s), asked_at

    def _new_term(self, lease: Lease, asked_at: float) -> Term:
        publisher: Publisher | None = None
        try:
            publisher = self._make_publisher()
            term = Term(
                self._store,
                lease,
                asked_at,
                publisher,
                self._settings,
                self._clock,
                cautious=self._cautious,
                observer=self._observer,
            )
            with self._observer.waiting("broker"):
                cluster_id = publisher.connect(self._settings.lease_s / 2)
            term.bind(cluster_id)
        except BaseException:
            if publisher is not None:
                with self._observer.waiting("broker"):
                    publisher.close()
            with suppress(LeaseLost, OutboxError):
                self._store.release(lease, lease.position)
            raise
        return term

    def _end_term(self) -> None:
        term, self._term = self._term, None
        if term is not None:
            term.close()
            self._observer.ended_term()

    # What is said, once per change

    def _note(self, term: Term, step: Step) -> None:
        if step.delivered or not term.in_flight:
            self._progress_at = self._clock()
            self._observer.progressed()
            self._say_well()
        elif term.trouble is not None and self._clock() - self._progress_at > _SILENCE_S:
            self._say_trouble("broker", f"Kafka does not answer: {term.trouble}")
        if self._clock() - self._heartbeat_at > self._settings.lease_s / 3:
            self._show(self._state)
        with self._observer.waiting("database"):
            self._housekeeping.turn()
        # To remove a file of many gigabytes may take longer than the lease lasts by our clock.
        term.save_if_due()

    def _show(self, state: str) -> None:
        """Say in the database that this process lives, and once in the log what it does now."""
        if state != self._state and state == "standby":
            logger.info(
                "relay %s is on standby: another process holds the lane",
                self._settings.name,
                extra={"event": "relay.standby"},
            )
        if state != self._state or self._clock() - self._heartbeat_at > self._settings.lease_s / 3:
            with self._observer.waiting("database"):
                self._store.heartbeat(self._settings.name, self._owner, state)
            self._heartbeat_at = self._clock()
            self._state = state

    def _say_lost(self) -> None:
        self._state = ""
        self._observer.lost_lease()
        logger.warning(
            "relay %s lost the lane and sends nothing more until it holds it again",
            self._settings.name,
            extra={"event": "relay.lane_lost"},
        )

    def _say_trouble(self, what: str, sentence: str) -> None:
        """Say once what is waited for: the "database", the "broker" or a "topic"."""
        self._observer.troubled(what, sentence)
        if self._trouble != what:
            logger.warning("%s; waiting", sentence, extra={"event": "relay.waiting"})
        self._trouble = what

    def _say_well(self) -> None:
        self._observer.recovered()
        if self._trouble is not None:
            logger.info("going on", extra={"event": "relay.going_on"})
            self._trouble = None

    @property
    def _stalled(self) -> bool:
        return self._clock() - self._progress_at > self._settings.connect_timeout_s

    def _give_up_if_stalled(self, term: Term) -> None:
        if self._stalled:
            reason = term.trouble or "no acknowledgement came"
            raise BrokerUnavailable(
                f"Kafka has not answered for {self._settings.connect_timeout_s:g} s: {reason}. "
                "Nothing is lost; run it again"
            )

    def _wait_out(
        self, error: DatabaseUnavailable | BrokerUnavailable, attempt: int, stop: threading.Event
    ) -> None:
        if isinstance(error, DatabaseUnavailable):
            # A database that crashed may use its transaction ids again: keep nothing.
            self._store.close()
        self._state = ""
        self._say_trouble(_awaited(error), str(error))
        stop.wait(self._backoff.delay_s(attempt, self._random))


def _awaited(error: DatabaseUnavailable | BrokerUnavailable) -> str:
    if isinstance(error, DatabaseUnavailable):
        return "database"
    return "topic" if isinstance(error, TopicUnavailable) else "broker"


class _Goal:
    """What a drain is after: everything that was committed when it began."""

    def __init__(self, store: Store, settings: RelaySettings, clock: Clock) -> None:
        self._store = store
        self._name = settings.name
        self._clock = clock
        self._horizon: str | None = None
        self._asked_at = float("-inf")

    def set(self) -> None:
        """Take everything committed now as the goal, the first time this is called."""
        if self._horizon is None:
            self._horizon = self._store.horizon()

    def reached(self, *, at_once: bool = True) -> bool:
        """Return whether all of it is delivered; asks once a second unless told `at_once`."""
        if not at_once and self._clock() - self._asked_at < 1.0:
            return False
        self._asked_at = self._clock()
        return self._horizon is not None and self._store.delivered(self._name, LANE, self._horizon)
