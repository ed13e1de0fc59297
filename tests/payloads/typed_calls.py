"""Right and wrong uses of typed topics, for the type checkers; nobody runs this.

A line that ends in `# wrong` must be an error, and no other may be one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

from outbox import Message, Outbox, Topic
from outbox.inbox import Inbox, InboxConsumer, ReceivedMessage


@dataclass
class OrderPlaced:
    order: int


@dataclass
class ExpressOrderPlaced(OrderPlaced):
    hours: int


@dataclass
class OrderCancelled:
    order: int
    reason: str


class Refund(TypedDict):
    order: int


PLACED = Topic("orders", OrderPlaced, type="order.placed", key=lambda placed: placed.order)
CANCELLED = Topic("orders", OrderCancelled, type="order.cancelled")
ORDERS = PLACED | CANCELLED
REFUNDS = Topic("refunds", Refund)
DOCUMENTS = Topic("documents", dict[str, Any])
NUMBERS = Topic("numbers", list[int])

events = Outbox()


def right(session: object, anything: Any, name: str, either: OrderPlaced | OrderCancelled) -> None:
    events.add(session, PLACED, OrderPlaced(1))
    events.add(session, PLACED, ExpressOrderPlaced(1, hours=3))
    events.add(session, PLACED, None, key=1)
    events.add(session, PLACED, anything)
    events.add(session, ORDERS, OrderPlaced(1))
    events.add(session, ORDERS, OrderCancelled(1, "late"), key=1)
    events.add(session, ORDERS, either)
    events.add(session, REFUNDS, Refund(order=1))
    events.add(session, DOCUMENTS, {"order": 1, "lines": []})
    events.add(session, NUMBERS, [1, 2])
    events.add(session, "orders", OrderPlaced(1))
    events.add(session, "orders", {"order": 1})
    events.add(session, "orders", b"raw")
    events.add(session, "orders", None, key=1)
    events.add(session, name, anything)
    events.add_all(session, [Message(PLACED, OrderPlaced(1)), Message("orders", 1)])


async def right_async(session: object) -> None:
    message = await events.add_async(session, PLACED, OrderPlaced(1))
    assert_type(message, Message)


def read(received: ReceivedMessage) -> None:
    assert_type(PLACED.decode(received), OrderPlaced)
    assert_type(ORDERS.decode(received), OrderPlaced | OrderCancelled)
    assert_type(REFUNDS.decode(received), Refund)
    assert_type(NUMBERS.decode(received), list[int])
    assert_type(PLACED.convert({"order": 1}, received), OrderPlaced)


def consume(inbox: Inbox, factory: Any) -> None:
    topics: Sequence[str | Topic[Any]] = [PLACED, "refunds"]
    InboxConsumer(inbox, transaction_factory=factory, kafka={}, topics=topics)
    InboxConsumer(inbox, transaction_factory=factory, kafka={}, topics=[ORDERS])


def wrong(session: object, either: OrderPlaced | OrderCancelled) -> None:
    events.add(session, PLACED, OrderCancelled(1, "late"))  # wrong
    events.add(session, PLACED, {"order": 1})  # wrong
    events.add(session, PLACED, "order")  # wrong
    events.add(session, PLACED, b"raw")  # wrong
    events.add(session, PLACED, either)  # wrong
    events.add(session, ORDERS, Refund(order=1))  # wrong
    events.add(session, REFUNDS, {"orders": 1})  # wrong
    events.add(session, 7, OrderPlaced(1))  # wrong
    events.add_async(session, PLACED, OrderCancelled(1, "late"))  # wrong
    Message(PLACED, OrderCancelled(1, "late"))  # wrong
    Topic("orders", OrderPlaced, key=lambda placed: placed.number)  # wrong
    Topic("orders", OrderPlaced(1))  # wrong
