"""Send delivered messages again: those of one relay name that an operator chose.

They are read from the log and handed to the broker by whoever calls this, beside the relay: nothing
is written to the log, so no other relay name sees them. They go without a position, which is given
once only, and are told by their ids. See docs/adr/0016-replay.md.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

from outbox.errors import BrokerUnavailable, ConfigurationError, MessageRefused
from outbox.record import Page, Position
from outbox.relay.backoff import Backoff
from outbox.relay.settlement import InFlight
from outbox.relay.term import elapsed_clock

if TYPE_CHECKING:
    from outbox.publishers.base import Publisher
    from outbox.record import Record
    from outbox.store.retained import Match, Reach, RetainedLog, Selection

#: Messages of the log that are looked at in one transaction.
_LOOK = 10_000

#: What operators have removed is read so many batches at a time.
_REMOVALS = 100

#: Messages, and bytes, that are handed to the broker at a time; and that may be in flight.
_PAGE, _PAGE_BYTES = 500, 4 * 1024 * 1024
_IN_FLIGHT, _IN_FLIGHT_BYTES = 10_000, 64 * 1024 * 1024

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be sent again.

    `run` names the undertaking over several attempts; `after` is the number of the last message
    that an earlier attempt has sent. With `new_ids` a message gets the UUIDv5 of its id within
    `run`, so that whatever is sent twice in one undertaking has one id.
    """

    reach: Reach
    selection: Selection
    run: UUID
    new_ids: bool = False
    after: int = 0

    @property
    def token(self) -> str:
        """Return what a later attempt goes on with."""
        return token(self.run, self.after)


def token(run: UUID, after: int) -> str:
    """Return what a later attempt goes on with: the undertaking, and where it stands."""
    return f"{run}:{after}"


def parse_token(text: str) -> tuple[UUID, int]:
    """Return the undertaking and the number. Raises ValueError for what is no token."""
    run, colon, after = text.strip().partition(":")
    if not colon or not after.isdecimal():
        raise ValueError(f"no number in {text!r}")
    return UUID(run), int(after)


def counted(log: RetainedLog, order: Order) -> Counter[str]:
    """Return how many messages would be sent, by topic."""
    return Counter(match.topic for matches in _matches(log, order) for match in matches)


def _matches(log: RetainedLog, order: Order) -> Iterator[list[Match]]:
    after: int | None = order.after
    if order.selection.since is not None:
        after = max(order.after, log.first_since(order.selection.since))
    removed = _removed(log, order.reach.relay)
    while after is not None:
        matches, after = log.matching(order.reach, order.selection, after, _LOOK)
        yield _without(log, matches, removed)


def _without(log: RetainedLog, matches: list[Match], removed: dict[int, set[bytes]]) -> list[Match]:
    """Return matches without what was removed; numbers alone may have been given out anew."""
    labels = log.labels([match.seq for match in matches if match.seq in removed])
    gone = {seq for seq, label in labels.items() if label.id in removed[seq]}
    return [match for match in matches if match.seq not in gone]


def _removed(log: RetainedLog, relay: str) -> dict[int, set[bytes]]:
    """Return numbers and ids of messages that operators have discarded or replaced."""
    found: dict[int, set[bytes]] = {}
    mark: int | None = 0
    while mark is not None:
        removals, mark = log.removals(relay, mark, _REMOVALS)
        for removal in removals:
            for seq, id_ in removal.messages:
                found.setdefault(seq, set()).add(id_)
    return found


@dataclass
class Replay:
    """One attempt. `progress` is told how many are confirmed, and the number of the last."""

    log: RetainedLog
    make_publisher: Callable[[], Publisher]
    order: Order
    timeout_s: float = 30.0
    progress: Callable[[int, int], None] = lambda _sent, _after: None
    clock: Callable[[], float] = elapsed_clock
    sent: int = 0
    after: int = field(init=False)

    def __post_init__(self) -> None:
        self.after = self.order.after
        self._progress_at = self.clock()
        self._random = random.Random()  # noqa: S311 - spreads retries, guards nothing

    def run(self, stop: threading.Event) -> None:
        """Send until all is confirmed, or `stop` is set; then what is in flight is waited for.

        After a failed delivery it goes on from the last confirmed message with a new publisher.
        Raises BrokerUnavailable when nothing was confirmed for `timeout_s`, MessageRefused,
        DatabaseUnavailable, ConfigurationError for another cluster than the relay name's; `sent`
        and `after` say what was done until then.
        """
        attempt = 0
        while True:
            before = self.sent
            try:
                return self._attempt(stop)
            except BrokerUnavailable:
                if self.clock() - self._progress_at > self.timeout_s or stop.is_set():
                    raise
                attempt = 0 if self.sent > before else attempt + 1
            stop.wait(Backoff().delay_s(attempt, self._random))

    def _attempt(self, stop: threading.Event) -> None:
        publisher = self.make_publisher()
        in_flight = InFlight(Position(0, self.after))
        try:
            self._check_cluster(publisher.connect(self.timeout_s))
            for page in self._pages():
                if stop.is_set():
                    break
                self._wait_for_room(publisher, in_flight)
                self._publish(publisher, in_flight, page)
            self._settle_all(publisher, in_flight)
        finally:
            publisher.close()
            self._settle(in_flight)

    def _check_cluster(self, cluster_id: str) -> None:
        known = self.order.reach.cluster_id
        if known and cluster_id and known != cluster_id:
            raise ConfigurationError(
                f"relay {self.order.reach.relay!r} publishes to Kafka cluster {known!r}, and this "
                f"is {cluster_id!r}: give the address of the other one"
            )

    def _pages(self) -> Iterator[Page]:
        """Yield what is to be sent, in the order of the log, from the last confirmed message on."""
        order = Order(self.order.reach, self.order.selection, self.order.run, after=self.after)
        for matches in _matches(self.log, order):
            for chunk in _bounded(matches):
                records = self.log.records([match.seq for match in chunk])
                if records:
                    if self.order.new_ids:
                        records = [self._renamed(record) for record in records]
                    yield Page(0, records, Position(0, records[-1].seq))

    def _renamed(self, record: Record) -> Record:
        return record._replace(id=str(uuid5(self.order.run, record.id)))

    def _publish(self, publisher: Publisher, in_flight: InFlight, page: Page) -> None:
        sent = in_flight.add(page)
        try:
            publisher.publish(list(page.records), "", sent, lambda: None)
        except MessageRefused:
            # What came before arrives, so that the next attempt begins at the message in question.
            with suppress(BrokerUnavailable, MessageRefused):
                while in_flight.has_before(sent):
                    self._poll(publisher, in_flight)
            raise
        publisher.poll(0)
        self._settle(in_flight)

    def _wait_for_room(self, publisher: Publisher, in_flight: InFlight) -> None:
        while in_flight and (
            in_flight.messages + _PAGE > _IN_FLIGHT or in_flight.bytes > _IN_FLIGHT_BYTES
        ):
            self._poll(publisher, in_flight)

    def _settle_all(self, publisher: Publisher, in_flight: InFlight) -> None:
        while in_flight:
            self._poll(publisher, in_flight)

    def _poll(self, publisher: Publisher, in_flight: InFlight) -> None:
        publisher.poll(_POLL_S)
        self._settle(in_flight)
        if self.clock() - self._progress_at > self.timeout_s:
            reason = publisher.trouble or "no acknowledgement came"
            raise BrokerUnavailable(f"Kafka has not answered for {self.timeout_s:g} s: {reason}")

    def _settle(self, in_flight: InFlight) -> None:
        """Move on to what is confirmed, page by page."""
        for settled in in_flight.settle():
            self.sent += len(settled.page.records)
            self.after = settled.page.end.seq
            self._progress_at = self.clock()
            self.progress(self.sent, self.after)


def _bounded(matches: list[Match]) -> Iterator[list[Match]]:
    """Yield pieces that are within the bounds of a page, in order; each has a message at least."""
    chunk: list[Match] = []
    weight = 0
    for match in matches:
        if chunk and (len(chunk) == _PAGE or weight + match.weight > _PAGE_BYTES):
            yield chunk
            chunk, weight = [], 0
        chunk.append(match)
        weight += match.weight
    if chunk:
        yield chunk
