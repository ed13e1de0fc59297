"""What is in flight, and how far the cursor may move. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from outbox.record import Page, Position, payload_sizes


class SentPage:
    """A page whose messages were handed to the broker; implements Delivery.

    `sent_at`: the caller's clock, when that was. `acknowledged`: notes a message by its index.
    """

    __slots__ = ("_arrived", "acknowledged", "bytes", "page", "sent_at")

    def __init__(self, page: Page, sent_at: float = 0.0) -> None:
        self.page = page
        self.sent_at = sent_at
        self.bytes = sum(payload_sizes(page.records))
        # Each message is acknowledged once. Called for every one, so it is no function of our own.
        self._arrived: list[int] = []
        self.acknowledged: Callable[[int], None] = self._arrived.append

    @property
    def remaining(self) -> int:
        """Return how many messages are not acknowledged."""
        return len(self.page.records) - len(self._arrived)

    @property
    def first_missing(self) -> int:
        """Return the index of the first message that is not acknowledged; call it if one is not."""
        acked = bytearray(len(self.page.records))
        for index in self._arrived:
            acked[index] = 1
        return acked.find(0)

    @property
    def mark(self) -> str:
        """Return the mark of the page's end."""
        return self.page.mark

    @property
    def confirmed(self) -> Position | None:
        """Return the position up to which every message is acknowledged, if any is."""
        if not self.remaining:
            return self.page.end
        count = self.first_missing
        return Position(self.page.batch, self.page.records[count - 1][0]) if count else None


class InFlight:
    """The pages that were sent, in order, and the position up to which all is acknowledged."""

    def __init__(self, position: Position) -> None:
        self._pages: deque[SentPage] = deque()
        self._confirmed = position
        self.messages = 0
        self.bytes = 0

    def add(self, page: Page, sent_at: float = 0.0) -> SentPage:
        """Take a page that is about to be sent."""
        sent = SentPage(page, sent_at)
        self._pages.append(sent)
        self.messages += len(page.records)
        self.bytes += sent.bytes
        return sent

    def take_back(self, sent: SentPage) -> None:
        """Forget a page of which nothing was sent."""
        self._pages.remove(sent)
        self.messages -= len(sent.page.records)
        self.bytes -= sent.bytes

    @property
    def only_one(self) -> tuple[SentPage, int] | None:
        """Return the one message that is not acknowledged, by its page and index, if it is one."""
        waiting = [sent for sent in self._pages if sent.remaining]
        if len(waiting) != 1 or waiting[0].remaining != 1:
            return None
        return waiting[0], waiting[0].first_missing

    def has_before(self, sent: SentPage) -> bool:
        """Return whether pages sent before this one wait for an acknowledgement."""
        return bool(self._pages) and self._pages[0] is not sent

    def settle(self) -> list[SentPage]:
        """Drop pages that are acknowledged, from the front, and return them."""
        settled: list[SentPage] = []
        while self._pages and not self._pages[0].remaining:
            sent = self._pages.popleft()
            self._confirmed = sent.page.end
            self.messages -= len(sent.page.records)
            self.bytes -= sent.bytes
            settled.append(sent)
        return settled

    @property
    def confirmed(self) -> Position:
        """Return the position up to which everything is acknowledged, within a page too.

        Only an unbroken run counts: an acknowledged message behind one that is not will be sent
        again.
        """
        first = self._pages[0].confirmed if self._pages else None
        return first or self._confirmed

    @property
    def oldest_sent_at(self) -> float | None:
        """Return when the first of the pages was sent."""
        return self._pages[0].sent_at if self._pages else None

    @property
    def oldest_topic(self) -> str:
        """Return the topic of the first message that is not acknowledged; "" where all are."""
        for sent in self._pages:
            if sent.remaining:
                return sent.page.records[sent.first_missing][2]
        return ""

    def __bool__(self) -> bool:
        return bool(self._pages)
