"""An order and its message are written together, or not at all."""

from __future__ import annotations

from decimal import Decimal

from django.db import connection
from django.test import TestCase
from orders.catalogue import BY_SKU
from orders.models import Order
from orders.placing import cancel_order, fail_to_place_order, place_order

from outbox.testing import assert_added, containing, refute_added

FORKS = [(BY_SKU["fork-440"], 2)]


class PlacingTest(TestCase):
    def test_an_order_that_is_placed_is_told_of(self) -> None:
        # When
        order = place_order("ada", FORKS)

        # Then both are there
        assert Order.objects.get().amount == Decimal("25.00")
        message = assert_added(
            connection,
            "orders",
            key="ada",
            type="order.placed",
            payload=containing(
                {
                    "order_id": str(order.id),
                    "amount": "25.00",
                    "items": [{"sku": "fork-440", "quantity": 2}],
                }
            ),
        )
        # And the order knows its message
        assert str(order.message_id) == str(message.id)

    def test_an_order_that_fails_leaves_nothing(self) -> None:
        # When
        attempt = fail_to_place_order("ada", FORKS)

        # Then both were written
        assert (attempt.within.orders, attempt.within.messages) == (1, 1)
        # And neither is there
        assert attempt.after == attempt.before
        assert not Order.objects.exists()
        refute_added(connection)

    def test_an_order_that_is_cancelled_is_told_of_once(self) -> None:
        # Given
        order = place_order("ada", FORKS)

        # When
        assert cancel_order(order.id)
        assert not cancel_order(order.id)

        # Then
        assert_added(connection, "orders", key="ada", type="order.cancelled", count=1)
