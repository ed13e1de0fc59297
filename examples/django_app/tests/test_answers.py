"""Billing's answers take effect once, however often they come."""

from __future__ import annotations

import uuid

from django.test import TestCase
from orders.catalogue import BY_SKU
from orders.invoices import take_answer
from orders.models import Order
from orders.placing import cancel_order, place_order

from outbox import Message
from outbox.django.inbox import Inbox, transactions
from outbox.testing import Outcome, assert_takes_effect_once, deliver


def answer(order: Order, type: str, **more: object) -> Message:
    payload = {"order_id": order.id, "customer": order.customer, **more}
    return Message("invoices", payload, key=order.customer, type=type)


def issued(order: Order) -> Message:
    return answer(order, "invoice.issued", invoice_id=uuid.uuid4())


class AnswersTest(TestCase):
    def setUp(self) -> None:
        self.order = place_order("ada", [(BY_SKU["fork-440"], 1)])

    def deliver(self, message: Message, times: int = 1) -> list[Outcome]:
        outcomes = deliver(
            Inbox("shop"), message, take_answer, transaction_factory=transactions(), times=times
        )
        self.order.refresh_from_db()
        return outcomes

    def test_an_invoice_that_comes_twice_is_taken_once(self) -> None:
        # When
        outcomes = self.deliver(issued(self.order), times=2)

        # Then
        assert outcomes == [Outcome.HANDLED, Outcome.DUPLICATE]
        assert (self.order.state, self.order.answers) == (Order.State.INVOICED, 1)

    def test_an_answer_takes_effect_once_whatever_fails(self) -> None:
        assert_takes_effect_once(
            Inbox("shop"),
            issued(self.order),
            take_answer,
            transaction_factory=transactions(),
            effects=lambda: list(Order.objects.values("state", "answers", "invoice_id")),
        )

    def test_a_refusal_says_why(self) -> None:
        self.deliver(answer(self.order, "invoice.refused", reason="too much"))
        assert (self.order.state, self.order.reason) == (Order.State.REFUSED, "too much")

    def test_an_invoice_does_not_bring_a_cancelled_order_back(self) -> None:
        cancel_order(self.order.id)
        self.deliver(issued(self.order))
        assert (self.order.state, self.order.answers) == (Order.State.CANCELLED, 1)

    def test_a_message_of_another_kind_changes_nothing(self) -> None:
        assert self.deliver(answer(self.order, "invoice.paid")) == [Outcome.HANDLED]
        assert self.order.state == Order.State.PLACED
