"""An order's journey, told by those who know: the log, the relay's cursor, billing, the order."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from orders import billing, log
from orders.models import Order

DONE, WAITING, FAILED, UNKNOWN = "done", "waiting", "failed", "unknown"


@dataclass(frozen=True)
class Step:
    """One step; `facts` are pairs of a word and a value, `state` one of the four above."""

    name: str
    title: str
    state: str
    sentence: str
    facts: tuple[tuple[str, object], ...] = field(default=())


@dataclass(frozen=True)
class Journey:
    """All of it; `is_over` when nothing more is to come."""

    steps: tuple[Step, ...]
    entry: log.LogEntry | None

    @property
    def trace_id(self) -> str:
        """The trace that the whole journey belongs to."""
        return self.entry.trace_id if self.entry else ""

    @property
    def is_over(self) -> bool:
        """Whether every step is taken."""
        return all(step.state == DONE for step in self.steps)


def journey_of(order: Order) -> Journey:
    """Ask everybody who knows something of an order."""
    entry = log.find(order.message_id)
    try:
        billed: billing.Billed | str | None = billing.ask(order.id)
    except billing.BillingUnavailable as unavailable:
        billed = str(unavailable)
    return tell(order, entry, billed)


def tell(order: Order, entry: log.LogEntry | None, billed: billing.Billed | str | None) -> Journey:
    """Put together what is known; `billed` is text where billing could not be asked. Pure."""
    steps = (
        _written(order, entry),
        _published(entry, billed),
        _billed(order, billed),
        _answered(order),
    )
    return Journey(steps, entry)


def _written(order: Order, entry: log.LogEntry | None) -> Step:
    title = "Written"
    if entry is None:
        return Step("written", title, UNKNOWN, "The log no longer holds the message.")
    facts = (
        ("place in the log", entry.seq),
        ("message", order.message_id),
        ("at", _time(entry.written_at)),
    )
    return Step("written", title, DONE, "Order and message, in one transaction.", facts)


def _published(entry: log.LogEntry | None, billed: billing.Billed | str | None) -> Step:
    title = "Published"
    if entry is None:
        return Step("published", title, UNKNOWN, "Without its entry, the cursor says nothing.")
    topic = (("topic", entry.topic), ("key", entry.key))
    if entry.published:
        sentence = "Kafka has confirmed it, and the cursor of the relay has passed it."
        return Step("published", title, DONE, sentence, topic)
    if isinstance(billed, billing.Billed):
        sentence = "Kafka has it already; the relay has not noted that yet."
    elif entry.served:
        sentence = "The relay is on its way there."
    else:
        sentence = "No relay is running. The message waits; nothing is lost."
    return Step("published", title, WAITING, sentence, topic)


def _billed(order: Order, billed: billing.Billed | str | None) -> Step:
    title = "Billed once"
    if billed is None:
        return Step("billed", title, WAITING, "Billing has not seen it yet.")
    if isinstance(billed, str):
        return Step("billed", title, UNKNOWN, f"Billing cannot be asked right now: {billed}")
    facts: tuple[tuple[str, object], ...] = (("delivered", _times(billed.deliveries)),)
    if billed.invoice_id:
        facts += (("invoice", billed.invoice_id),)
    if order.answers > 1:
        # Every invoice is answered with a message of its own, so this would give it away.
        return Step("billed", title, FAILED, f"Billed {_times(order.answers)}!", facts)
    sentence = {
        "issued": "One invoice, in one transaction with the inbox.",
        "refused": "Turned down once, in one transaction with the inbox.",
    }.get(billed.state, f"Billing says: {billed.state}.")
    return Step("billed", title, DONE, sentence, facts)


def _answered(order: Order) -> Step:
    title = "Answered"
    if order.answered_at is None:
        return Step("answered", title, WAITING, "The shop has had no answer yet.")
    at = (("at", _time(order.answered_at)),)
    if order.reason:
        return Step("answered", title, DONE, f"Refused: {order.reason}", at)
    facts = (("invoice", order.invoice_id), *at)
    return Step("answered", title, DONE, "The answer came through the inbox of the shop.", facts)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _time(moment: datetime) -> str:
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d} UTC"
