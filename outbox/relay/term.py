"""One term of holding a lane: read, send, settle, until the lease is lost or given back."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from outbox.errors import BrokerUnavailable, MessageRefused, OutboxError
from outbox.publishers.base import (
    DeliveryFailed,
    Fenced,
    PageRefused,
    Publisher,
    TopicLost,
    unavailable_topics,
)
from outbox.record import END, Page, Record, payload_sizes
from outbox.relay.caution import Caution
from outbox.relay.checkpoint import Checkpoint
from outbox.relay.held import Attempt, Division, cut_of, joined, split
from outbox.relay.holding import Holding
from outbox.relay.observer import Observer, Unobserved
from outbox.relay.pace import Allowance
from outbox.relay.settings import RelaySettings
from outbox.relay.settlement import InFlight, SentPage
from outbox.store.base import Lease, LeaseLost, Store
from outbox.store.held import Hold

logger = logging.getLogger("outbox.relay")

Clock = Callable[[], float]

#: How long to wait for the acknowledgement of what is tried again, in seconds.
_ATTEMPT_S = 5.0

#: An acknowledgement that has not come after so long, in seconds, is worth a warning.
_LONG_S = 5.0


def elapsed_clock() -> float:
    """Return seconds that pass also while the machine is suspended, where the system can tell."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


@dataclass(frozen=True, slots=True)
class Step:
    """What one turn of the loop did, in messages. `bytes`: of the payloads that were read; 0 where
    nobody asked for it. `more`: not all of a batch is read yet."""

    read: int = 0
    delivered: int = 0
    bytes: int = 0
    more: bool = False

    @property
    def idle(self) -> bool:
        """Return whether there was nothing to do."""
        return not (self.read or self.delivered)


class Term:
    """Holds a lane. Raises LeaseLost, DatabaseUnavailable, BrokerUnavailable or MessageRefused;
    after any of these the term is over and must be closed."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        leased_at: float,
        publisher: Publisher,
        settings: RelaySettings,
        clock: Clock = elapsed_clock,
        *,
        cautious: bool = False,
        observer: Observer | None = None,
        holding: Holding | None = None,
    ) -> None:
        """`leased_at`: this process's clock, read before the lease was asked for.

        `cautious`: the term before failed on the broker, and may do so again at the same message.
        """
        self._store = store
        self._lease = lease
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._observer = observer or Unobserved()
        self._reader = store.reader(lease)
        self._in_flight = InFlight(lease.position)
        # How many messages may be in flight. After a failure one, and twice as many each time that
        # all have arrived: what lies behind a message that cannot be sent goes out again with every
        # attempt.
        self._limit = settings.in_flight_messages * (2 if publisher.transactional else 1)
        draw = random.Random()  # noqa: S311 - spreads retries
        window = self._limit + settings.page_messages
        self._caution = Caution(lease.trail, window, clock(), draw)
        #: For how long it was to hand over nothing when it had its last turn; 0 where it may.
        self.rest_s = self._caution.rest_s(clock())
        self._allowed = self._caution.step if self._caution.is_on else self._limit
        self._allowed = 1 if cautious else self._allowed
        self._checkpoint = Checkpoint(
            store,
            lease,
            leased_at,
            self._in_flight,
            self._caution,
            settings,
            clock,
            self._observer,
        )
        self._holding = holding or Holding(store.held, None, clock, draw)
        self._holding.one_by_one = self._caution.is_on
        self._holding.begin(lease, cautious=cautious)
        self._has_tried = False
        self._is_dying = False
        self._mark = ""
        self._prefix = f"{lease.log_id}/{lease.relay}/{lease.lane}/"

    def step(self, wait_s: float, *, read: bool = True, at_most: Allowance | None = None) -> Step:
        """Send a page if there is room and one to read, then look what was acknowledged.

        Waits up to `wait_s` for acknowledgements where there was nothing to read. Without `read` it
        only looks. `at_most` is what a limit allows the page to be.
        """
        self._checkpoint.check_lease()
        self.rest_s = self._caution.rest_s(self._clock())
        read = read and not self.rest_s
        is_due = read and self._holding.is_due and not self._has_tried
        self._has_tried &= not read  # in between the log has its turn
        if is_due and not self._in_flight:
            step = self._try_again()
            if step is not None:
                return step
            is_due = False
        asked = read and self._has_room and not is_due
        page = self._read(at_most) if asked else None
        if page is not None:
            # Finding it may have taken longer than the lease lasts by our clock. Without this a
            # relay would throw away what was found slowly, and look for it again, for ever.
            self.save_if_due()
            self._send(page)
        is_waited_for = page is None and bool(self._in_flight)
        delivered = self._await(wait_s if is_waited_for else 0.0, until_room=read)
        if self._caution.remembers:
            self._go_carefully(delivered, nothing_new=asked and page is None)
        if delivered and not self._in_flight and not self._caution.is_on:
            self._allowed = min(self._allowed * 2, self._limit)
        self.save_if_due()
        if page is None:
            return Step(0, delivered)
        size = 0 if at_most is None else sum(payload_sizes(page.records))
        return Step(len(page.records), delivered, size, more=page.end.seq != END)

    # Where relays have died before

    @property
    def is_careful(self) -> bool:
        """Return whether any message may kill this process."""
        return self._caution.is_on

    @property
    def handed(self) -> int | None:
        """Return the number of the last message that was noted before it was handed over."""
        return self._caution.handed

    def _go_carefully(self, delivered: int, *, nothing_new: bool) -> None:
        """End the care once relays before cannot have had more on their way, or nothing is left."""
        self._pass(delivered)
        if nothing_new and not self._in_flight and not self._holding.is_due:
            self._caution.caught_up()
        self._holding.one_by_one = self._caution.is_on
        if self._caution.is_on:
            self._allowed = self._caution.step

    def _pass(self, delivered: int) -> None:
        if self._caution.passed(delivered) and self.handed is not None:
            self._store.acquit(self._lease, self.handed)
            self._caution.acquit()

    def _acquit(self, holds: Sequence[Hold]) -> None:
        """Let messages be tried as any other, should an operator requeue them."""
        for hold in holds:
            if hold.fault == "crash":
                self._store.acquit(self._lease, hold.seq)
                self._caution.acquit()

    def _note(self, seq: int) -> None:
        if self._caution.is_on:
            self._checkpoint.move(
                lambda at, for_s: self._store.suspect(self._lease, at, for_s, seq)
            )
            self._caution.handed = seq

    def _poll(self, wait_s: float) -> None:
        try:
            with self._at_the_broker():
                self._publisher.poll(wait_s)
        except (BrokerUnavailable, MessageRefused) as error:
            self._hold_guilty(error)
            raise

    @contextmanager
    def _at_the_broker(self) -> Iterator[None]:
        try:
            with self._observer.waiting("broker"):
                yield
        except Fenced as error:
            logger.warning(
                "relay %s: %s", self._lease.relay, error, extra={"event": "relay.fenced"}
            )
            self._observer.fenced()
            self.save()  # raises LeaseLost if another relay has the lane
            raise
        except MemoryError:
            self._is_dying = True
            raise

    def _await(self, wait_s: float, *, until_room: bool) -> int:
        """Wait until all is acknowledged, or `until_room` for more; return how many that were.

        Not only for the first: a page's acknowledgements come one partition after the other, and
        all that a turn does for each of them would cost more than the page.
        """
        deadline = self._clock() + wait_s
        delivered = 0
        left_s = wait_s
        while True:
            self._poll(left_s)
            delivered += self._settle()
            left_s = deadline - self._clock()
            if left_s <= 0 or not self._in_flight or (until_room and self._has_room):
                return delivered

    def _settle(self) -> int:
        """Drop what is acknowledged; return how many messages that were."""
        settled = self._in_flight.settle()
        for sent in settled:
            self._observer.settled(sent.page, self._clock() - sent.sent_at)
        return sum(len(sent.page.records) for sent in settled)

    @property
    def lease(self) -> Lease:
        """Return the lease of the stream."""
        return self._lease

    @property
    def lane(self) -> str:
        """Return the name of the stream."""
        return self._lease.lane

    @property
    def ended(self) -> bool:
        """Return whether the stream is none of the log's any more, and all of it is delivered."""
        return self._reader.ended and not self._in_flight

    @property
    def nothing_at(self) -> str | None:
        """Return the store's moment in which there was nothing to read, None if there was."""
        return self._reader.nothing_at

    @property
    def in_flight(self) -> bool:
        """Return whether messages wait for an acknowledgement."""
        return bool(self._in_flight)

    @property
    def trouble(self) -> str | None:
        """Return what keeps the broker from answering, or None.

        A network that swallows everything is noticed here long before the client complains of it.
        """
        if (reason := self._publisher.trouble) is not None:
            return reason
        silent_s = self._silent_s
        if silent_s < _LONG_S:
            return None
        return (
            f"what was sent to topic {self._in_flight.oldest_topic!r} {silent_s:.0f} s ago is not "
            "acknowledged; `outbox-relay doctor` looks for the cause"
        )

    @property
    def _silent_s(self) -> float:
        sent_at = self._in_flight.oldest_sent_at
        return 0.0 if sent_at is None else self._clock() - sent_at

    @property
    def _has_room(self) -> bool:
        in_flight = self._in_flight
        return not in_flight or (
            in_flight.messages + self._page_messages <= self._allowed
            and in_flight.bytes < self._settings.in_flight_bytes
        )

    @property
    def _page_messages(self) -> int:
        return min(self._settings.page_messages, self._allowed)

    def _read(self, at_most: Allowance | None) -> Page | None:
        messages, size = self._page_messages, self._settings.page_bytes
        if at_most is not None:
            messages, size = min(messages, at_most.messages), min(size, at_most.bytes)
        with self._observer.waiting("database"):
            return self._reader.read(messages, size)

    def _send(self, page: Page) -> None:
        """Send a page but for what cannot be sent, which is held before the rest goes."""
        rest: Page | None = page
        while rest is not None:
            rest = self._send_first(rest)

    def _send_first(self, page: Page) -> Page | None:
        """Send a page as far as may be before something arrives; return what is left of it."""
        self._mark = page.mark or self._mark
        if self._reader.lanes_changed:
            self._holding.share()
        division = self._holding.sift(page.records)
        if division is None and self._caution.is_on:
            division = self._condemned(page.records)
        while True:
            if division is not None and (index := cut_of(page.records, division)) is not None:
                first, rest = split(page, index)
                left = self._send_first(first)
                return rest if left is None else joined(left, rest)
            if division is not None:
                if division.stopped:
                    self._arrive()
                page = self._hold(page, division)
            sent = self._in_flight.add(page, self._clock())
            if not page.records:
                return None
            try:
                self._publish(sent)
            except (BrokerUnavailable, MessageRefused) as error:
                division = self._refused(sent, error)
            else:
                self._observer.sent(page)
                return None

    def _arrive(self) -> None:
        """Wait for what is in flight, before a key is stopped that may have messages there."""
        self._settle_while(lambda: bool(self._in_flight), self._settings.drain_timeout_s)
        if self._in_flight:
            raise DeliveryFailed(f"Kafka does not answer: {self._publisher.trouble}")

    def _condemned(self, records: Sequence[Record]) -> Division | None:
        deaths = self._caution.deaths_by(records[0][0]) if records else 0
        return self._holding.condemn(Record(*records[0]), deaths) if deaths else None

    def _publish(self, sent: SentPage) -> None:
        self._note(sent.page.records[-1][0])
        with self._at_the_broker():
            self._publisher.publish(
                list(sent.page.records),
                f"{self._prefix}{sent.page.batch}/",
                sent,
                self._meanwhile,
            )

    def _meanwhile(self) -> None:
        """Do what must be done every now and then while a page is being sent."""
        self._checkpoint.check_lease()
        self._reader.receive()

    def _refused(self, sent: SentPage, error: BrokerUnavailable | MessageRefused) -> Division:
        """Return what is to be held of a page that was refused before any of it was sent.

        Raises the error where it is about something else.
        """
        if isinstance(error, TopicLost):  # a part of the page may have arrived
            self._hold_guilty(error)
            raise error
        records, topics = sent.page.records, unavailable_topics(error)
        reasons = _reasons(error, len(records))
        if not self._holding.enabled or not (reasons or topics):
            self._wait_for_pages_before(sent)
            raise error
        self._in_flight.take_back(sent)
        return self._holding.refused(records, reasons, topics)

    def _hold(self, page: Page, division: Division) -> Page:
        """Hold a part of a page; return the rest of it."""
        self._checkpoint.move(lambda at, for_s: self._holding.hold(division, at, for_s))
        self._acquit(division.holds)
        for _ in range(division.refused):
            self._observer.refused()
        self._observer.held(Counter(hold.state for hold in division.holds))
        return replace(page, records=division.sent)

    def _hold_guilty(self, error: BrokerUnavailable | MessageRefused) -> None:
        """Hold what was refused after it was sent, if it is certain which message that is."""
        if not self._holding.enabled:
            return
        self._holding.close_topics(unavailable_topics(error))
        only = self._in_flight.only_one
        if only is None or not isinstance(error, MessageRefused):
            return
        sent, index = only
        division = self._holding.refused([Record(*sent.page.records[index])], {0: str(error)}, {})
        self._hold(sent.page, division)
        sent.acknowledged(index)

    # What is held and tried again

    def _try_again(self) -> Step | None:
        """Send a few held messages, with nothing else on its way, and see what becomes of them.

        Returns None if none are due.
        """
        self._has_tried = True
        with self._observer.waiting("database"):
            group = self._holding.choose()
        if not group:
            return None
        if self.unsaved:
            self.save()  # what is sent has no position of its own, and keeps none at the broker
        attempt = Attempt(group, self._mark)
        self._holding.screen(attempt, self._caution.deaths_by)
        try:
            self._deliver(attempt)
        finally:
            if attempt.delivered or attempt.failed:
                self._checkpoint.move(lambda at, for_s: self._holding.settle(attempt, at, for_s))
                self._acquit(attempt.failed)
                self._pass(len(attempt.delivered))
                self._observer.retried(attempt.arrived, attempt.failures)
        size = sum(payload_sizes(held.record for held in group))
        return Step(len(group), len(attempt.delivered), size)

    def _deliver(self, attempt: Attempt) -> None:
        try:
            self._hand_over(attempt)
            deadline = self._clock() + _ATTEMPT_S
            while not attempt.is_complete:
                if self._clock() > deadline:
                    raise DeliveryFailed(f"Kafka does not answer: {self._publisher.trouble}")
                self._checkpoint.check_lease()
                self.save_if_due()
                with self._at_the_broker():
                    self._publisher.poll(0.05)
        except (BrokerUnavailable, MessageRefused) as error:
            reason = str(error) if isinstance(error, MessageRefused) else None
            self._holding.blame(attempt, reason, unavailable_topics(error))
            raise

    def _hand_over(self, attempt: Attempt) -> None:
        """Give an attempt to the publisher, without positions, but for what it refuses at once."""
        while attempt.left:
            self._note(attempt.left[0].record.seq)
            try:
                with self._at_the_broker():
                    self._publisher.publish(
                        attempt.records, "", attempt, self._checkpoint.check_lease
                    )
            except (BrokerUnavailable, MessageRefused) as error:
                reasons = _reasons(error, len(attempt.left))
                topics = unavailable_topics(error)
                if not (reasons or topics) or isinstance(error, TopicLost):
                    raise
                self._holding.refuse(attempt, reasons, topics)
            else:
                return

    def _wait_for_pages_before(self, sent: SentPage) -> None:
        """Let what is in flight arrive when a page is refused, for a topic that does not exist say.

        Otherwise every attempt would send the pages before it again, and never get beyond them.
        """
        with suppress(BrokerUnavailable, MessageRefused):
            self._settle_while(
                lambda: self._in_flight.has_before(sent), self._settings.drain_timeout_s
            )

    def save_if_due(self) -> None:
        """Move the cursor and renew the lease now and then."""
        self._checkpoint.save_if_due()

    def save(self) -> None:
        """Move the cursor to what is confirmed, and renew the lease."""
        self._checkpoint.save()

    @property
    def unsaved(self) -> bool:
        """Return whether more is confirmed than saved."""
        return self._checkpoint.unsaved

    def finish(self, timeout_s: float) -> None:
        """Wait for what is in flight, as long as the lease lasts."""
        self._settle_while(lambda: bool(self._in_flight), timeout_s)

    def _settle_while(self, waiting: Callable[[], bool], timeout_s: float) -> None:
        deadline = self._clock() + timeout_s
        while waiting() and self._clock() < deadline:
            self._checkpoint.check_lease()
            self._poll(0.05)
            self._settle()
            self.save_if_due()

    def close(self) -> None:
        """Stop sending, save what is confirmed, give the lane back. Never raises.

        The lane is given back only after the producer is gone: until then it may still send.
        """
        with self._observer.waiting("broker"):
            self._publisher.close()
        self._settle()
        if self._is_dying:
            return  # for whoever comes next this must not look like an end in order
        with suppress(LeaseLost, OutboxError), self._observer.waiting("database"):
            self._store.release(self._lease, self._in_flight.confirmed)


def _reasons(error: Exception, count: int) -> Mapping[int, str]:
    """Return why messages were refused, of `count` that were to be sent, where that is certain."""
    if isinstance(error, PageRefused):
        return error.reasons
    return {0: str(error)} if isinstance(error, MessageRefused) and count == 1 else {}
