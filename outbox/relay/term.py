"""One term of holding a lane: read, send, settle, until the lease is lost or given back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from outbox.errors import BrokerUnavailable, MessageRefused, OutboxError
from outbox.publishers.base import Fenced, Publisher
from outbox.record import Page
from outbox.relay.observer import Observer, Unobserved
from outbox.relay.settings import RelaySettings
from outbox.relay.settlement import InFlight, SentPage
from outbox.store.base import Lease, LeaseLost, Store

logger = logging.getLogger("outbox.relay")

Clock = Callable[[], float]

#: An acknowledgement that has not come after so long, in seconds, is worth a warning.
_LONG_S = 5.0

#: After so long the lane is given up; whoever has it next sends again what is in flight.
_TOO_LONG_S = 60.0


def elapsed_clock() -> float:
    """Return seconds that pass also while the machine is suspended, where the system can tell."""
    boottime = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boottime is None else time.clock_gettime(boottime)


@dataclass(frozen=True, slots=True)
class Step:
    """What one turn of the loop did, in messages."""

    read: int = 0
    delivered: int = 0

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
    ) -> None:
        """`leased_at`: this process's clock, read before the lease was asked for.

        `cautious`: the term before failed on the broker, and may do so again at the same message.
        """
        self._store = store
        self._lease = lease
        self._leased_at = leased_at
        self._publisher = publisher
        self._settings = settings
        self._clock = clock
        self._observer = observer or Unobserved()
        self._reader = store.reader(lease)
        self._in_flight = InFlight(lease.position)
        self._saved = lease.position
        self._saved_at = leased_at
        # How many messages may be in flight. After a failure one, and twice as many each time that
        # all have arrived: what lies behind a message that cannot be sent goes out again with every
        # attempt.
        self._limit = settings.in_flight_messages * (2 if publisher.transactional else 1)
        self._allowed = 1 if cautious else self._limit
        self._prefix = f"{lease.log_id}/{lease.relay}/{lease.lane}/"

    def step(self, wait_s: float, *, read: bool = True) -> Step:
        """Send a page if there is room and one to read, then look what was acknowledged.

        Waits up to `wait_s` for an acknowledgement where there was nothing to read. Without `read`
        it only looks.
        """
        self.check_lease()
        page = self._read() if read and self._has_room else None
        if page is not None:
            # Finding it may have taken longer than the lease lasts by our clock. Without this a
            # relay would throw away what was found slowly, and look for it again, for ever.
            self.save_if_due()
            self._send(page)
        self._poll(0 if page is not None or not self._in_flight else wait_s)
        delivered = self._settle()
        if delivered and not self._in_flight:
            self._allowed = min(self._allowed * 2, self._limit)
        self.save_if_due()
        self._give_up_if_silent()
        return Step(len(page.records) if page is not None else 0, delivered)

    def _poll(self, wait_s: float) -> None:
        with self._at_the_broker():
            self._publisher.poll(wait_s)

    @contextmanager
    def _at_the_broker(self) -> Iterator[None]:
        try:
            with self._observer.waiting("broker"):
                yield
        except Fenced as error:
            logger.warning(
                "relay %s: %s", self._lease.relay, error, extra={"event": "relay.fenced"}
            )
            self.save()  # raises LeaseLost if another relay has the lane
            raise

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
        return f"what was sent {silent_s:.0f} s ago is not acknowledged"

    @property
    def _silent_s(self) -> float:
        sent_at = self._in_flight.oldest_sent_at
        return 0.0 if sent_at is None else self._clock() - sent_at

    def _give_up_if_silent(self) -> None:
        """Raise BrokerUnavailable when it may be our network: another relay's may be better."""
        if self._silent_s > _TOO_LONG_S:
            raise BrokerUnavailable(f"Kafka does not answer: {self.trouble}")

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

    def _read(self) -> Page | None:
        with self._observer.waiting("database"):
            return self._reader.read(self._page_messages, self._settings.page_bytes)

    def _send(self, page: Page) -> None:
        sent = self._in_flight.add(page, self._clock())
        if not page.records:
            return
        self._observer.sent(page)
        try:
            with self._at_the_broker():
                self._publisher.publish(
                    list(page.records), f"{self._prefix}{page.batch}/", sent, self.check_lease
                )
        except (BrokerUnavailable, MessageRefused):
            self._wait_for_pages_before(sent)
            raise

    def _wait_for_pages_before(self, sent: SentPage) -> None:
        """Let what is in flight arrive when a page is refused, for a topic that does not exist say.

        Otherwise every attempt would send the pages before it again, and never get beyond them.
        """
        with suppress(BrokerUnavailable, MessageRefused):
            self._settle_while(
                lambda: self._in_flight.has_before(sent), self._settings.drain_timeout_s
            )

    def check_lease(self) -> None:
        """Raise LeaseLost when our own clock says that the lease may have run out.

        A process that was frozen must not go on sending what its successor has sent already. The
        margin is for what may lie between the two clocks' readings.
        """
        if self._clock() - self._leased_at > self._settings.lease_s * 0.75:
            raise LeaseLost(self._lease.relay)

    def save_if_due(self) -> None:
        """Move the cursor and renew the lease now and then."""
        since = self._clock() - self._saved_at
        moved = self._in_flight.confirmed != self._saved
        idle = moved and not self._in_flight
        if (
            since >= self._settings.lease_s / 4
            or (moved and since >= self._settings.save_interval_s)
            or (idle and since >= self._settings.idle_save_interval_s)
        ):
            self.save()

    def save(self) -> None:
        """Move the cursor to what is confirmed, and renew the lease."""
        position = self._in_flight.confirmed
        now = self._clock()
        with self._observer.waiting("database"):
            self._store.save(self._lease, position, self._settings.lease_s)
        self._leased_at = self._saved_at = now
        self._saved = position

    @property
    def unsaved(self) -> bool:
        """Return whether more is confirmed than saved."""
        return self._in_flight.confirmed != self._saved

    def finish(self, timeout_s: float) -> None:
        """Wait for what is in flight, as long as the lease lasts."""
        self._settle_while(lambda: bool(self._in_flight), timeout_s)

    def _settle_while(self, waiting: Callable[[], bool], timeout_s: float) -> None:
        deadline = self._clock() + timeout_s
        while waiting() and self._clock() < deadline:
            self.check_lease()
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
        with suppress(LeaseLost, OutboxError), self._observer.waiting("database"):
            self._store.release(self._lease, self._in_flight.confirmed)
