"""Place an order: the change and its message, in one transaction."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from decimal import Decimal

from django.db import transaction

from orders.catalogue import Article
from orders.models import Order, OrderLine, Rush
from outbox.django import add
from outbox.django.models import OutboxMessage

Basket = list[tuple[Article, int]]


def place_order(customer: str, basket: Basket, rush: Rush | None = None) -> Order:
    """Save an order and the message that tells of it: both, or neither."""
    with transaction.atomic():
        amount = sum((article.price * quantity for article, quantity in basket), Decimal(0))
        order = Order.objects.create(customer=customer, amount=amount, rush=rush)
        order.lines.bulk_create(_lines(order, basket))
        message = add("orders", order.as_message(), key=order.customer, type="order.placed")
        order.message_id = message.id
        order.save(update_fields=["message_id"])
    return order


def cancel_order(order_id: uuid.UUID) -> bool:
    """Cancel an order and tell the world; False if it was cancelled before, or refused."""
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        if order.state not in (Order.State.PLACED, Order.State.INVOICED):
            return False
        order.state = Order.State.CANCELLED
        order.save(update_fields=["state"])
        gone = {"order_id": order.id, "customer": order.customer}
        add("orders", gone, key=order.customer, type="order.cancelled")
    return True


class CardDeclined(Exception):
    """The customer cannot pay, as it turns out at the last moment."""


@dataclass(frozen=True)
class Counts:
    """How many rows there are."""

    orders: int
    messages: int


@dataclass(frozen=True)
class Attempt:
    """An order that failed: what was in the database before, in the middle and afterwards."""

    order_id: str
    message_id: str
    before: Counts
    within: Counts
    after: Counts

    def as_json(self) -> dict[str, object]:
        """Return it in a form that a session can keep."""
        return asdict(self)


def fail_to_place_order(customer: str, basket: Basket) -> Attempt:
    """Place an order, let its transaction fail after all was written, and look what is left."""
    before = count()
    try:
        with transaction.atomic():
            order = place_order(customer, basket)
            within = count()
            charge_card()
    except CardDeclined:
        return Attempt(str(order.id), str(order.message_id), before, within, count())


def charge_card() -> None:
    """Find out that the customer cannot pay."""
    raise CardDeclined


def count() -> Counts:
    """Count the rows of both tables, as this connection sees them."""
    return Counts(Order.objects.count(), OutboxMessage.objects.count())


def _lines(order: Order, basket: Basket) -> list[OrderLine]:
    return [
        OrderLine(
            order=order,
            sku=article.sku,
            title=article.title,
            price=article.price,
            quantity=quantity,
        )
        for article, quantity in basket
    ]
