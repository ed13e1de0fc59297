"""One transaction: the pages in it, how it ends, and whom to tell."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from outbox.headers import WireHeaders
from outbox.publishers.base import Delivery
from outbox.publishers.fencing import offsets_with
from outbox.record import Record
from outbox.tracing import end_send_span, start_send_span

#: A transaction ends at one of these: so that what is lost with an abort is little, consumers do
#: not wait, and yet the round trips of its end are rare.
_MESSAGES = 10_000
_BYTES = 8 * 1024 * 1024
_AGE_S = 0.1


class PreparedPage:
    """A page that can be sent: its messages have their headers, and their topics are known."""

    __slots__ = ("check", "delivery", "records", "spans", "wires")

    def __init__(
        self,
        records: list[Record],
        wires: list[WireHeaders],
        delivery: Delivery,
        check: Callable[[], None],
    ) -> None:
        self.records = records
        self.wires = wires
        self.delivery = delivery
        self.check = check
        self.spans: list[Any] = []  # of OpenTelemetry, which is not imported here

    def start_spans(self) -> None:
        """Begin the spans of the messages that are traced."""
        for _, id_, topic, key, payload, _, _, _, parent, state, _, _ in self.records:
            if parent is None:
                continue
            span = start_send_span(
                topic=topic,
                message_id=id_,
                key=key,
                traceparent=parent,
                tracestate=state,
                tombstone=payload is None,
            )
            if span is not None:
                self.spans.append(span)

    def end_spans(self, error: str | None) -> None:
        """End them. Which offset a message got is not known: nobody is told it for each of them."""
        for span in self.spans:
            end_send_span(span, None, None, error)
        self.spans.clear()


class Transaction:
    """What is sent between two commits. `ended` is set once `error` tells how it ended."""

    def __init__(self, began_at: float) -> None:
        self.ended = threading.Event()
        self.error: Exception | None = None
        self._began_at = began_at
        self._pages: list[PreparedPage] = []
        self._topics: set[str] = set()
        self._messages = 0
        self._bytes = 0

    def add(self, page: PreparedPage) -> None:
        """Take a page in; its mark takes the place of the one before."""
        self._pages.append(page)
        self._messages += len(page.records)
        self._bytes += sum(len(record[4] or b"") for record in page.records)
        self._topics.update(record[2] for record in page.records)

    def is_due(self, now: float) -> bool:
        """Return whether it is large enough, or old enough, to be ended."""
        return (
            self._messages >= _MESSAGES or self._bytes >= _BYTES or now - self._began_at >= _AGE_S
        )

    @property
    def is_alone(self) -> bool:
        """Return whether there is one message in it, so that an error can be no other's fault."""
        return self._messages == 1

    @property
    def only_topic(self) -> str | None:
        """Return the topic of all of its messages, None where they have several."""
        return next(iter(self._topics)) if len(self._topics) == 1 else None

    @property
    def first(self) -> str:
        """Return the name of its first message."""
        _, id_, topic, *_ = self._pages[0].records[0]
        return f"message {id_} for topic {topic!r}"

    def commit(self, producer: Any, group: Any, timeout_s: float) -> None:
        """Commit the messages with the latest mark. Notes what goes wrong, raises nothing."""
        try:
            marked = next((page for page in reversed(self._pages) if page.delivery.mark), None)
            if marked is not None:  # an empty mark would take the place of the one that is kept
                offset = marked.records[-1][0]
                offsets = offsets_with(self._topics, offset, marked.delivery.mark)
                producer.send_offsets_to_transaction(offsets, group, timeout_s)
            producer.commit_transaction(timeout_s)
        except Exception as error:  # noqa: BLE001 - the publisher's own thread raises it
            self.error = error
        finally:
            self._end_spans()
            self.ended.set()

    def _end_spans(self) -> None:
        for page in self._pages:
            page.end_spans(None if self.error is None else "not committed")

    def acknowledge(self) -> None:
        """Report every message."""
        for page in self._pages:
            acknowledged = page.delivery.acknowledged
            for index in range(len(page.records)):
                acknowledged(index)
