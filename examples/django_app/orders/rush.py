"""Many orders at once, and the relay is killed in the middle of them.

For those who run the examples on their own machine; no shop has such a button.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from opentelemetry import trace
from opentelemetry.context import Context

from orders import billing, log
from orders.catalogue import CATALOGUE
from orders.models import Order, Rush
from orders.placing import place_order

tracer = trace.get_tracer("shop")

CUSTOMERS = ("ada", "ben", "cleo", "dora", "emil")
MOST_ORDERS = 60

#: So many orders come before the relay may die, and so many follow for the one in its place.
BEFORE = AFTER = 6

#: For so long a message that was sent may take to billing, seconds.
_PATIENCE_S = 0.5


def rush_and_kill(pid_file: Path) -> Rush:
    """Place orders, and kill the relay when Kafka has a message that the relay has not noted.

    To see that, the relay is frozen for a moment after some of the orders.
    """
    rush = Rush.objects.create()
    not_noted: deque[Order] = deque()
    left = MOST_ORDERS
    while left:
        left -= 1
        not_noted.append(_place(rush))
        if rush.killed_pid is None and left % 3 == 0 and left <= MOST_ORDERS - BEFORE:
            with _frozen(int(pid_file.read_text())) as relay:
                midway = _is_worst_moment(not_noted)
                if midway or left <= AFTER:
                    _kill(rush, relay, midway=midway)
                    left = AFTER
    return rush


def _place(rush: Rush) -> Order:
    customer = CUSTOMERS[rush.orders.count() % len(CUSTOMERS)]
    # A trace of its own for each order, as if each had been a request.
    with tracer.start_as_current_span("rush", context=Context()):
        return place_order(customer, [(CATALOGUE[0], 1)], rush)


@contextmanager
def _frozen(relay: int) -> Iterator[int]:
    os.kill(relay, signal.SIGSTOP)
    try:
        yield relay
    finally:
        with suppress(ProcessLookupError):
            os.kill(relay, signal.SIGCONT)


def _is_worst_moment(not_noted: deque[Order]) -> bool:
    """Return whether billing gets an order whose message the relay's cursor has not passed."""
    while not_noted:
        entry = log.find(not_noted[0].message_id)
        if entry is not None and not entry.published:
            return _billing_gets(not_noted[0].id)
        not_noted.popleft()
    return False


def _billing_gets(order_id: uuid.UUID) -> bool:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(billing.BillingUnavailable):
            if billing.ask(order_id) is not None:
                return True
        time.sleep(0.02)
    return False


def _kill(rush: Rush, relay: int, *, midway: bool) -> None:
    os.kill(relay, signal.SIGKILL)
    rush.killed_pid = relay
    rush.killed_midway = midway
    rush.killed_at_order = rush.orders.count()
    rush.save()


@dataclass(frozen=True)
class Verdict:
    """What came of a rush, counted from what billing and the shop's orders say now.

    `billed_more_than_once` counts answers: each invoice is told of by a message of its own.
    """

    placed: int
    published: int
    billed: int
    answered: int
    came_again: int
    billed_more_than_once: int
    problem: str = ""

    @property
    def is_over(self) -> bool:
        """Whether every order has been answered."""
        return self.placed == self.answered == self.billed == self.published


def look_back(rush: Rush) -> Verdict:
    """Ask everybody about every order."""
    orders = list(rush.orders.all())
    entries = [log.find(order.message_id) for order in orders]
    problem = ""
    known: list[billing.Billed] = []
    try:
        answers = [billing.ask(order.id) for order in orders]
        known = [answer for answer in answers if answer is not None]
    except billing.BillingUnavailable as unavailable:
        problem = str(unavailable)
    return Verdict(
        placed=len(orders),
        published=sum(entry is not None and entry.published for entry in entries),
        billed=len(known),
        answered=sum(order.answers > 0 for order in orders),
        came_again=sum(answer.deliveries > 1 for answer in known),
        billed_more_than_once=sum(order.answers > 1 for order in orders),
        problem=problem,
    )
