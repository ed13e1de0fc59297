"""The relay: serve the streams that are its share, and begin again whatever ends that."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from outbox.errors import BrokerUnavailable, DatabaseUnavailable, MessageRefused, OutboxError
from outbox.publishers.base import Publisher
from outbox.relay.backoff import Backoff
from outbox.relay.housekeeping import Housekeeping
from outbox.relay.observer import Observer, Unobserved
from outbox.relay.schedule import Scheduler
from outbox.relay.service import STANDBY_INTERVAL_S, Service
from outbox.relay.settings import RelaySettings
from outbox.relay.term import Clock, Step, elapsed_clock
from outbox.relay.voice import Voice
from outbox.relay.waking import Polling, Waker, rest
from outbox.store.base import Store
from outbox.store.owner import new_owner

#: After work the relay looks again at once, then ever more slowly; in seconds.
_FIRST_WAIT_S = 0.001
_WAIT_GROWTH = 1.5

#: An idle relay looks so much more often than it promises that its look and the way to the broker
#: take no longer than the rest of the interval.
_LOOKING = 0.9

#: One pass looks so often, in seconds, whether the limit of the rate lets more go.
_LIMITED_REST_S = 0.05

#: A drain that is busy asks this often, in seconds, whether it has reached its goal, and for this
#: part of its time at the most.
_ASK_EVERY_S, _ASKING = 1.0, 0.01

#: For so long, in seconds, a relay that has nothing to do only glances at the log: whether there
#: can be anything new. Then it looks after everything again.
_GLANCES_S = 1.0

_DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Pass:
    """What `run_once` did, in messages. `held_by_another`: other processes have all lanes."""

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
        self._settings = settings or RelaySettings()
        self._clock = clock
        self._owner = ""  # a name of this process, and between here and there may be a fork
        self._backoff = Backoff()
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._voice = Voice(self._settings.name, self._observer)
        self._service = Service(
            store, make_publisher, self._settings, clock, self._observer, self._voice
        )
        self._look_every_s = _LOOKING * self._settings.poll_interval_s
        self._heartbeat_at = float("-inf")
        self._state = ""
        self._database_at = clock()
        #: The streams that were paused, after a drain that left messages because of it.
        self.left_paused: frozenset[str] = frozenset()
        self._housekeeping = Housekeeping(store, clock, self._settings.prune_interval_s)
        self._scheduler = Scheduler(store.schedule, clock, self._settings.poll_interval_s)

    # One pass, for tests, cron jobs and embedding

    def run_once(self) -> Pass:
        """Send what is committed now and wait until it is acknowledged and saved, or held.

        Keeps its lanes until `close`. Raises DatabaseUnavailable, BrokerUnavailable (also when no
        acknowledgement came for `connect_timeout_s`), MessageRefused or ConfigurationError; calling
        again begins anew.
        """
        self._service.begin()
        try:
            self._reach_database(None)
            self._service.share_if_due(self._owner)
            self._raise_failure()
            return self._pass()
        except OutboxError:
            self._service.close()
            raise

    def _pass(self) -> Pass:
        if self._service.terms:
            self._scheduler.begin_anew()
        read = delivered = 0
        while self._service.terms:
            refusals = self._service.refusals
            self._service.ask_all()
            step = self._service.turn(0.05)
            self._raise_failure()
            self._service.share_if_due(self._owner)
            self._keep_house()
            self._give_up_if_stalled()
            read += step.read
            delivered += step.delivered
            is_done = step.idle and refusals == self._service.refusals
            if is_done and (due_s := self._service.due_in_s) < float("inf"):
                time.sleep(min(due_s, _LIMITED_REST_S))
            elif is_done and not self._service.in_flight:
                self._service.save()
                if self._service.terms:
                    return Pass(read, delivered)
        return Pass(held_by_another=True)  # what was sent in the end is nobody's to say

    def _raise_failure(self) -> None:
        if self._service.failure is not None:
            raise self._service.failure

    def close(self) -> None:
        """Give the lanes back and close the connections. Never raises."""
        self._service.close()
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
        self._database_at = self._clock()
        self._service.begin()
        try:
            while not stop.is_set():
                try:
                    return self._serve(stop, goal)
                except MessageRefused:
                    self._observer.refused()
                    raise
                except DatabaseUnavailable as error:
                    self._observer.failed(_DATABASE)
                    if drain and self._is_overdue(self._database_at):
                        raise
                    attempt = attempt + 1 if self._voice.in_trouble(_DATABASE) else 0
                    self._wait_out(error, attempt, stop)
        finally:
            self.close()

    def _serve(self, stop: threading.Event, goal: _Goal | None) -> None:
        """Serve what is this process's share until told to stop, or the goal is reached."""
        wait_s = _FIRST_WAIT_S
        while not stop.is_set():
            self._reach_database(goal)
            self._service.share_if_due(self._owner)
            # Nothing can be read before, so an acknowledgement is all there is to wait for.
            step = self._service.turn(max(wait_s, self._service.looks_in_s))
            self._keep_house()
            if goal is not None:
                if self._reached(goal, step):
                    break
                if self._nothing_but_paused(step, wait_s):
                    self.left_paused = self._service.paused
                    break
                self._give_up_if_stalled()
            if not step.idle:
                wait_s = _FIRST_WAIT_S
                continue
            if not self._service.in_flight:
                pause_s = min(self._service.looks_in_s, self._look_every_s)
                self._rest(stop, max(wait_s, pause_s))
            wait_s = min(wait_s * _WAIT_GROWTH, self._look_every_s)
        self._service.finish()

    def _rest(self, stop: threading.Event, wait_s: float) -> None:
        if not self._service.terms:
            until_retry_s = self._service.retry_at - self._clock()
            stop.wait(min(max(until_retry_s, _FIRST_WAIT_S), STANDBY_INTERVAL_S))
            return
        if self._service.paced_s > 0:
            self._pace(stop)
            return
        due_s = min(self._scheduler.due_in_s(), self._service.due_in_s)
        every_s = min(self._settings.lease_s / 4, self._settings.heartbeat_s)
        rest(self._waker, stop, wait_s, self._keep_house, every_s, due_s)
        if wait_s >= self._look_every_s and not stop.is_set():
            left_s = min(due_s - wait_s, self._service.retries_in_s, every_s, _GLANCES_S)
            self._glance(stop, self._waker.patience_s(wait_s), left_s)
        self._service.ask_rested()

    def _pace(self, stop: threading.Event) -> None:
        """Rest after all there was, whatever the waker is told: a plan for each would cost most."""
        while (paced_s := self._service.paced_s) > 0 and not stop.is_set():
            self._waker.wait(stop, paced_s)
        self._service.ask_rested()

    def _glance(self, stop: threading.Event, every_s: float, left_s: float) -> None:
        """Ask for a while, in the cheapest way, whether there can be anything new.

        This is what an idle relay does all day, some twenty times a second.
        """
        known = self._service.still_at
        moment, wait, waiting = self._store.moment, self._waker.wait, self._observer.waiting
        while known is not None and left_s > every_s:
            with waiting("database"):
                if moment() != known:
                    return
            if wait(stop, every_s):
                return
            left_s -= every_s

    def _reached(self, goal: _Goal, step: Step) -> bool:
        service = self._service
        if service.waits_for_broker:
            return False  # whoever drains wants to know that the broker cannot be reached
        at_once = not service.terms or (step.idle and not service.in_flight and not service.unsaved)
        with self._observer.waiting("database"):
            return goal.reached(at_once=at_once)

    def _nothing_but_paused(self, step: Step, wait_s: float) -> bool:
        """Return whether what a drain has left to do here is paused, as far as one can see.

        Every stream was asked again after a rest, since the turn before was idle too.
        """
        service = self._service
        is_quiet = step.idle and wait_s > _FIRST_WAIT_S and service.due_in_s == float("inf")
        busy = service.in_flight or service.unsaved or service.waits_for_broker
        return bool(service.paused) and is_quiet and not busy

    def _reach_database(self, goal: _Goal | None) -> None:
        with self._observer.waiting("database"):
            self._store.connect()
            self._observer.connected()
            self._owner = self._owner or new_owner()
            if goal is not None:
                goal.set()

    # Between turns

    def _keep_house(self) -> None:
        """Do what must be done now and then: say that we live, prune, renew the leases."""
        self._database_at = self._clock()
        self._voice.is_well(_DATABASE)
        self._show(self._present_state)
        if self._service.terms:
            with self._observer.waiting("database"):
                self._housekeeping.turn()
                self._scheduler.turn()
            # To remove a file of many gigabytes may take longer than the lease lasts by our clock.
            self._service.save_if_due()

    @property
    def _present_state(self) -> str:
        if self._service.terms:
            return "paused" if self._service.is_paused else "relaying"
        waits = self._service.waits_for_broker or not self._service.is_fit
        return "waiting" if waits else "standby"

    def _show(self, state: str) -> None:
        """Say in the database that this process lives, and once in the log what it does now."""
        if state == "standby":
            self._observer.stands_by()
        changed = state != self._state
        if changed and state == "standby":
            self._voice.stands_by()
        if changed or self._clock() - self._heartbeat_at > self._settings.heartbeat_s:
            with self._observer.waiting("database"):
                self._store.heartbeat(self._settings.name, self._owner, state)
            self._heartbeat_at = self._clock()
            self._state = state

    def _is_overdue(self, since: float) -> bool:
        return self._clock() - since > self._settings.connect_timeout_s

    def _give_up_if_stalled(self) -> None:
        if self._is_overdue(self._service.progress_at):
            if self._service.failure is not None:
                raise self._service.failure
            reason = self._service.trouble or "no acknowledgement came"
            raise BrokerUnavailable(
                f"Kafka has not answered for {self._settings.connect_timeout_s:g} s: {reason}. "
                "Nothing is lost; run it again"
            )

    def _wait_out(self, error: DatabaseUnavailable, attempt: int, stop: threading.Event) -> None:
        """A database that crashed may use its transaction ids again: keep nothing."""
        self._service.close()
        self._store.close()
        self._state = ""
        self._voice.waits(_DATABASE, "database", str(error), error.why)
        stop.wait(self._backoff.delay_s(attempt, self._random))


class _Goal:
    """What a drain is after: everything that was committed when it began."""

    def __init__(self, store: Store, settings: RelaySettings, clock: Clock) -> None:
        self._store = store
        self._name = settings.name
        self._clock = clock
        self._horizon: str | None = None
        self._ask_at = float("-inf")

    def set(self) -> None:
        """Take everything committed now as the goal, the first time this is called."""
        if self._horizon is None:
            self._horizon = self._store.horizon()
            self._ask_at = self._clock() + _ASK_EVERY_S

    def reached(self, *, at_once: bool = True) -> bool:
        """Return whether all of it is delivered; asks now and then unless told `at_once`."""
        began = self._clock()
        if self._horizon is None or (began < self._ask_at and not at_once):
            return False
        is_reached = self._store.delivered(self._name, self._horizon)
        # What is left has to be looked through; the more there is, the longer that takes.
        ended = self._clock()
        self._ask_at = ended + max(_ASK_EVERY_S, (ended - began) / _ASKING)
        return is_reached
