"""The streams that one process serves: which it takes and gives back, and whose turn it is."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

from outbox.errors import BrokerUnavailable, MessageRefused, OutboxError
from outbox.publishers.base import Publisher
from outbox.relay.backoff import Backoff
from outbox.relay.fitness import Fitness
from outbox.relay.gate import Gate
from outbox.relay.holding import Holding
from outbox.relay.observer import Observer
from outbox.relay.resuming import check_cluster, claim, is_claimed, resume
from outbox.relay.seat import Seat
from outbox.relay.settings import RelaySettings
from outbox.relay.sharing import share
from outbox.relay.term import Clock, Step, Term
from outbox.relay.turns import Turns
from outbox.relay.voice import Voice, awaited
from outbox.store.base import Lease, LeaseLost, Store, Stream
from outbox.store.owner import is_certainly_dead

#: Who holds nothing looks this often, in seconds, whether there is something for it; who holds
#: something, whether it should share.
STANDBY_INTERVAL_S = 0.2
_SHARE_INTERVAL_S = 1.0

#: A broker that has not answered for this long, in seconds, is worth a warning.
_SILENCE_S = 1.0


class Service:
    """Holds terms, one for each stream. DatabaseUnavailable and what waiting cannot mend go through
    to the caller, who then closes all; what befalls one stream does not touch the others."""

    def __init__(
        self,
        store: Store,
        make_publisher: Callable[[], Publisher],
        settings: RelaySettings,
        clock: Clock,
        observer: Observer,
        voice: Voice,
    ) -> None:
        self._store = store
        self._make_publisher = make_publisher
        self._settings = settings
        self._clock = clock
        self._observer = observer
        self._voice = voice
        self._backoff = Backoff()
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._turns = Turns()
        self._fitness = Fitness()
        self._gate = Gate(settings, clock, observer)
        self._seats: dict[str, Seat] = {}
        self._shared_at = float("-inf")
        self.failure: BrokerUnavailable | None = None
        #: How many terms ended since the broker refused what they had sent.
        self.refusals = 0

    # What is held

    @property
    def _served(self) -> list[Seat]:
        return [seat for seat in self._seats.values() if seat.term is not None]

    @property
    def terms(self) -> list[Term]:
        """Return the terms of the streams that are held."""
        return [seat.term for seat in self._seats.values() if seat.term is not None]

    @property
    def in_flight(self) -> bool:
        """Return whether messages wait for an acknowledgement."""
        return any(term.in_flight for term in self.terms)

    @property
    def unsaved(self) -> bool:
        """Return whether more is confirmed than saved."""
        return any(term.unsaved for term in self.terms)

    @property
    def trouble(self) -> str | None:
        """Return what keeps the broker from answering, or None."""
        return next((term.trouble for term in self.terms if term.trouble), None)

    @property
    def progress_at(self) -> float:
        """Return when the stream that waits longest for its broker last had an answer."""
        waiting = (
            seat.progress_at
            for seat in self._seats.values()
            if (seat.term.in_flight if seat.term is not None else seat.failures)
        )
        return min(waiting, default=self._clock())

    @property
    def retry_at(self) -> float:
        """Return when a stream is to be tried again, at the earliest; by the relay's clock."""
        return min(
            (seat.retry_at for seat in self._seats.values() if seat.term is None),
            default=float("inf"),
        )

    @property
    def paused(self) -> frozenset[str]:
        """Return the streams of the relay name that operators have paused, held here or not."""
        return self._gate.paused

    @property
    def is_paused(self) -> bool:
        """Return whether all that is held here is paused."""
        held = {name for name, seat in self._seats.items() if seat.term is not None}
        return bool(held) and held <= self._gate.paused

    @property
    def due_in_s(self) -> float:
        """Return for how long nothing may go, by the limit of the rate or since a stream rests;
        infinite where something may."""
        rests = (term.rest_s for term in self.terms if term.is_careful)
        return min([self._gate.due_in_s, *filter(None, rests)])

    @property
    def is_fit(self) -> bool:
        """Return whether this process may ask for streams that others could have."""
        return self._fitness.is_fit(self._clock())

    @property
    def waits_for_broker(self) -> bool:
        """Return whether a stream is not held because the broker failed it."""
        return any(seat.term is None and seat.failures for seat in self._seats.values())

    # Taking and giving back

    def begin(self) -> None:
        """Let the time in which nothing goes on count from now."""
        for seat in self._seats.values():
            seat.progress_at = self._clock()

    def share_if_due(self, owner: str) -> None:
        """Look now and then which streams should be ours; take those, give back the others."""
        now = self._clock()
        interval_s = _SHARE_INTERVAL_S if self.terms else STANDBY_INTERVAL_S
        if now - self._shared_at < interval_s and self.retry_at > now:
            return
        with self._observer.waiting("database"):
            streams = self._store.streams(self._settings.name)
            wanted = self._wanted(streams, owner)
            self._gate.look(self._store, (stream.name for stream in streams))
        self._shared_at = now
        for name, seat in list(self._seats.items()):
            if name not in wanted and seat.term is None:
                self._forget(name)
            seat.leaving = name not in wanted
        for stream in wanted.values():
            self._take(stream, owner)
        ours = (seat.holding.waited_for for seat in self._served)
        self._observer.closed(frozenset[str]().union(*ours))

    def _wanted(self, streams: list[Stream], owner: str) -> dict[str, Stream]:
        if len(streams) == 1 and (term := next(iter(self.terms), None)) is not None:
            return {term.lane: streams[0]} if streams[0].name == term.lane else {}
        placed = share(streams, self._candidates(owner))
        return {stream.name: stream for stream in streams if placed[stream.name] == owner}

    def _candidates(self, owner: str) -> list[str]:
        """Return the processes to share with. Who waits for the broker is none while others do not:
        they may reach it."""
        seen = self._store.processes(self._settings.name, 3 * self._settings.heartbeat_s)
        others = [each for each in seen if each != owner and not is_certainly_dead(each)]
        return [*others, owner] if self.is_fit or not others else others

    def _take(self, stream: Stream, owner: str) -> None:
        if stream.name not in self._seats:
            holding = Holding(self._store.held, self._settings.retry, self._clock, self._random)
            self._seats[stream.name] = Seat(stream.name, holding, progress_at=self._clock())
        seat = self._seats[stream.name]
        seat.priority = stream.priority
        seat.holding.pause(self._gate.paused_topics(stream.name))
        if seat.term is not None or seat.retry_at > self._clock():
            return
        try:
            self._begin(seat, owner)
        except LeaseLost:
            self._lose(seat)
        except BrokerUnavailable as error:
            self._fail(seat, error)

    def _begin(self, seat: Seat, owner: str) -> None:
        """Take the lane if it is free, and reach the broker."""
        name, lease_s = self._settings.name, self._settings.lease_s
        asked_at = self._clock()
        with self._observer.waiting("database"):
            lease = self._store.acquire(name, seat.stream, owner, lease_s)
        if lease is None:
            # Who waits for another process has not been let down by the broker.
            seat.failures = 0
            seat.progress_at = self._clock()
            seat.retry_at = seat.progress_at + STANDBY_INTERVAL_S
            return
        seat.term, seat.cautious = self._new_term(seat, lease, asked_at), False
        self._voice.lane_taken(lease)

    def _new_term(self, seat: Seat, lease: Lease, asked_at: float) -> Term:
        publisher: Publisher | None = None
        try:
            publisher = self._make_publisher()
            with self._observer.waiting("broker"):
                cluster_id = publisher.connect(self._settings.lease_s / 2)
            check_cluster(self._store, lease, cluster_id)
            if is_claimed(lease, self._settings.delivery):
                lease, asked_at = self._resume(lease, asked_at, publisher)
            return Term(
                self._store,
                lease,
                asked_at,
                publisher,
                self._settings,
                self._clock,
                cautious=seat.cautious,
                observer=self._observer,
                holding=seat.holding,
            )
        except BaseException:
            if publisher is not None:
                with self._observer.waiting("broker"):
                    publisher.close()
            with suppress(LeaseLost, OutboxError):
                self._store.release(lease, lease.position)
            raise

    def _resume(self, lease: Lease, asked_at: float, publisher: Publisher) -> tuple[Lease, float]:
        """Return the lease at the latest position that is known, and when it was renewed."""
        delivery, lease_s = self._settings.delivery, self._settings.lease_s
        if self._clock() - asked_at > lease_s * 0.75:
            # Who has the lane by now must not be shut out by one who comes too late.
            raise LeaseLost(lease.relay)
        with self._observer.waiting("broker"):
            marks = claim(publisher, lease, delivery)
        asked_at = self._clock()
        return resume(self._store, lease, marks, delivery, lease_s), asked_at

    # Working

    def turn(self, wait_s: float) -> Step:
        """Let one stream have a page, in turn, and all of them see what was acknowledged.

        Waits up to `wait_s` for an acknowledgement where there was nothing to read.
        """
        read = delivered = 0
        is_open = self._gate.is_open
        held = {name: seat for name, seat in self._seats.items() if seat.term is not None}
        order = self._turns.order({name: seat.priority for name, seat in held.items()})
        alone = len(order) == 1
        for place, name in enumerate(order):
            may_read = is_open and name not in self._gate.paused
            may_read = may_read and not read and held[name].ask_at <= self._clock()
            may_read = may_read and not self._waits_for_suspect(name)
            step = self._step(held[name], wait_s if alone else 0.0, read=may_read)
            self._gate.passed(step)
            delivered += step.delivered
            if step.read:
                read = step.read
                self._turns.served(name, set(order[place + 1 :]) - self._gate.paused)
            elif may_read:
                self._turns.had_nothing(name)
        if is_open and not read:
            self._gate.was_idle()
        if not alone and not (read or delivered) and wait_s:
            self._await_acknowledgement(wait_s)
        return Step(read, delivered)

    def _waits_for_suspect(self, stream: str) -> bool:
        """Return whether a stream is to hand over nothing now, since another has just done so: when
        this process dies it must be certain of which message."""
        term = self._seats[stream].term
        return (
            term is not None
            and term.is_careful
            and any(each.is_careful and each.in_flight for each in self.terms if each is not term)
        )

    def _step(self, seat: Seat, wait_s: float, *, read: bool) -> Step:
        term = seat.term
        if term is None:
            return Step()
        began = self._clock()
        try:
            step = term.step(wait_s, read=read and not seat.leaving, at_most=self._gate.allowance)
            self._note(seat, term, step, began, asked=read)
            if term.ended or (seat.leaving and not term.in_flight):
                self._give_back(seat, term)
        except LeaseLost:
            self._lose(seat)
        except BrokerUnavailable as error:
            self._fail(seat, error)
        except MessageRefused:
            if not seat.holding.enabled:
                raise
            self._begin_anew(seat)
        else:
            return step
        return Step()

    def _begin_anew(self, seat: Seat) -> None:
        """End a term that sent what the broker refuses: sent alone, it is found, and held."""
        self._end(seat)
        seat.cautious, seat.retry_at = True, float("-inf")
        self.refusals += 1

    def _note(self, seat: Seat, term: Term, step: Step, began: float, *, asked: bool) -> None:
        now = self._clock()
        if step.read:
            longest_s = self._settings.poll_interval_s
            seat.had_something(now, now - began, longest_s, more=step.more)
        elif asked:
            seat.had_nothing(now)
        if step.delivered:
            self._fitness.succeeded()
        if step.delivered or not term.in_flight:
            seat.failures = 0
            self.failure = None
            seat.progress_at = self._clock()
            self._observer.progressed()
            self._voice.is_well(seat.stream)
        elif term.trouble is not None and self._clock() - seat.progress_at > _SILENCE_S:
            self._voice.waits(seat.stream, "broker", f"Kafka does not answer: {term.trouble}")

    def _await_acknowledgement(self, wait_s: float) -> None:
        """Wait at the first stream that has something in flight; the others are looked at next."""
        for seat in self._seats.values():
            if seat.term is not None and seat.term.in_flight:
                self._step(seat, min(wait_s, 0.001), read=False)
                return

    @property
    def still_at(self) -> str | None:
        """Return the store's moment in which no stream had anything new, None if one had."""
        known = {term.nothing_at for term in self.terms}
        return known.pop() if len(known) == 1 and not self.unsaved else None

    @property
    def retries_in_s(self) -> float:
        """Return in how many seconds held messages are to be tried again, at the earliest."""
        return min((seat.holding.due_in_s for seat in self._served), default=float("inf"))

    @property
    def looks_in_s(self) -> float:
        """Return in how many seconds a stream is to be asked again, at the earliest."""
        asked_at = min((seat.ask_at for seat in self._served), default=0.0)
        return max(asked_at - self._clock(), 0.0)

    def ask_all(self) -> None:
        """Let every stream be asked in the next turn."""
        for seat in self._seats.values():
            seat.ask_at = float("-inf")

    def ask_rested(self) -> None:
        """Let the streams be asked in the next turn that do not rest after all there was."""
        now = self._clock()
        for seat in self._seats.values():
            seat.ask_if_rested(now)

    @property
    def paced_s(self) -> float:
        """Return for how many seconds all streams rest after all there was; 0 if one does not."""
        until = min((seat.paced_until for seat in self._served), default=0.0)
        return max(until - self._clock(), 0.0)

    def save_if_due(self) -> None:
        """Renew the leases."""
        self._with_each_term(Term.save_if_due)

    def save(self) -> None:
        """Save what is confirmed."""
        self._with_each_term(lambda term: term.save() if term.unsaved else None)

    def _with_each_term(self, act: Callable[[Term], None]) -> None:
        """Do it with each term; what befalls one stream does not keep it from the others."""
        for seat in list(self._seats.values()):
            if seat.term is not None:
                try:
                    act(seat.term)
                except LeaseLost:
                    self._lose(seat)
                except BrokerUnavailable as error:
                    self._fail(seat, error)

    # Ends

    def finish(self) -> None:
        """Wait for what is in flight, as long as the leases last."""
        self._with_each_term(lambda term: term.finish(self._settings.drain_timeout_s))

    def close(self) -> None:
        """Give all lanes back; never raises. What comes next begins at once."""
        for seat in self._seats.values():
            self._end(seat)
            seat.retry_at = float("-inf")
        self._shared_at = float("-inf")
        self.failure = None

    def _give_back(self, seat: Seat, term: Term) -> None:
        ended = term.ended
        if term.unsaved:
            term.save()
        if ended:
            with self._observer.waiting("database"):
                self._store.retire(term.lease)
        self._end(seat)
        why = "it is none of the log's any more" if ended else "another process is to have it"
        self._voice.lane_given_back(seat.stream, why)
        self._forget(seat.stream)

    def _lose(self, seat: Seat) -> None:
        if seat.term is not None and seat.term.handed is not None:
            with suppress(OutboxError):
                self._store.acquit(seat.term.lease, seat.term.handed)
        self._end(seat)
        self._voice.lane_lost(seat.stream)
        seat.retry_at = self._clock() + STANDBY_INTERVAL_S

    def _fail(self, seat: Seat, error: BrokerUnavailable) -> None:
        """End a term on the broker's account and try again later, in small steps."""
        self.failure = error
        self._observer.failed(awaited(error))
        if awaited(error) == "broker":
            self._fitness.failed(self._clock())
        self._end(seat)
        seat.cautious = True
        in_trouble = self._voice.in_trouble(seat.stream)
        seat.failures = seat.failures + 1 if in_trouble else 1
        seat.retry_at = self._clock() + self._backoff.delay_s(seat.failures - 1, self._random)
        self._voice.waits(seat.stream, awaited(error), str(error))

    def _end(self, seat: Seat) -> None:
        term, seat.term = seat.term, None
        if term is not None:
            term.close()
            self._observer.ended_term(seat.stream)

    def _forget(self, stream: str) -> None:
        del self._seats[stream]
        self._voice.forget(stream)
