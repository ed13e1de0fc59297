"""What the shop does with messages."""

from __future__ import annotations

from django.db.backends.base.base import BaseDatabaseWrapper

from outbox.inbox import ReceivedMessage
from tests.django.suite.shop.models import Order


def write_order(_: BaseDatabaseWrapper, message: ReceivedMessage) -> None:
    """Write an order for a message."""
    Order.objects.create(customer=message.id)


async def asynchronous(_: BaseDatabaseWrapper, message: ReceivedMessage) -> None:
    """Be of no use to a consumer."""
