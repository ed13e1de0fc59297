"""What billing makes of a message."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from billing.extensions import db
from billing.models import Invoice, State
from billing.orders import take_order
from conftest import Order
from flask import Flask
from sqlalchemy import select

from outbox import Message, PayloadNotReadable
from outbox.flask import transactions
from outbox.inbox import Inbox, Outcome
from outbox.testing import (
    assert_added,
    assert_takes_effect_once,
    containing,
    deliver,
    drain,
    refute_added,
)

pytestmark = pytest.mark.usefixtures("app")


def hear(app: Flask, message: Message, times: int = 1) -> list[Outcome]:
    """Let billing hear of an order."""
    factory = transactions(app)
    outcomes = deliver(
        Inbox("billing"), message, take_order, transaction_factory=factory, times=times
    )
    for error in outcomes.errors:
        raise error
    return outcomes


def all_invoices() -> list[tuple[Any, ...]]:
    columns = (Invoice.order_id, Invoice.customer, Invoice.amount, Invoice.state, Invoice.reason)
    return [
        tuple(row) for row in db.session.execute(select(*columns).order_by(Invoice.received_at))
    ]


def test_an_order_gets_an_invoice_and_an_answer(app: Flask, order: Order) -> None:
    # When
    assert hear(app, order(customer="ada", amount="12.50")) == [Outcome.HANDLED]

    # Then there is an invoice
    with app.app_context():
        invoice = db.session.scalars(select(Invoice)).one()
        assert (invoice.customer, str(invoice.amount), invoice.state) == ("ada", "12.50", "issued")

        # And it is told to the world, in the order of the customer's messages
        answer = assert_added(db.session, "invoices", type="invoice.issued", key="ada")
        assert json.loads(answer.payload) == {
            "invoice_id": str(invoice.id),
            "order_id": str(invoice.order_id),
            "customer": "ada",
            "amount": "12.50",
            "currency": "EUR",
            "issued_at": invoice.received_at.isoformat(),
        }


@pytest.mark.parametrize(
    ("amount", "type"), [("1000.00", "invoice.issued"), ("1000.01", "invoice.refused")]
)
def test_the_credit_limit_is_a_thousand(app: Flask, order: Order, amount: str, type: str) -> None:
    hear(app, order(amount=amount))
    with app.app_context():
        assert_added(db.session, "invoices", type=type)


def test_a_refusal_says_why(app: Flask, order: Order) -> None:
    message = order(customer="ben", amount="1450.00")
    hear(app, message)
    with app.app_context():
        assert_added(
            db.session,
            "invoices",
            type="invoice.refused",
            key="ben",
            payload=containing(
                {"customer": "ben", "reason": "over the credit limit of 1,000.00 EUR"}
            ),
        )
        assert db.session.scalars(select(Invoice)).one().number is None


def test_an_order_is_billed_once_however_often_its_message_comes(app: Flask, order: Order) -> None:
    def effects() -> list[object]:
        with app.app_context():
            answers = [message.id for message in drain(db.session)]
            return [all_invoices(), answers]

    assert_takes_effect_once(
        Inbox("billing"),
        order(),
        take_order,
        transaction_factory=transactions(app),
        effects=effects,
    )


def test_another_message_about_the_same_order_changes_nothing(app: Flask, order: Order) -> None:
    order_id = "0198c5a5-0000-7000-8000-000000000001"
    hear(app, order(order_id=order_id, amount="1.00"))
    hear(app, order(order_id=order_id, amount="2.00"))
    with app.app_context():
        assert [str(amount) for _, _, amount, *_ in all_invoices()] == ["1.00"]
        assert_added(db.session, "invoices", count=1)


def test_a_cancelled_order_keeps_its_invoice_and_says_so(app: Flask, order: Order) -> None:
    placed = order(customer="cleo")
    order_id = placed.payload["order_id"]
    hear(app, placed)
    gone = {"order_id": order_id, "customer": "cleo"}
    hear(app, Message("orders", gone, key="cleo", type="order.cancelled"))
    with app.app_context():
        invoice = db.session.scalars(select(Invoice)).one()
        assert invoice.order_id == UUID(order_id)
        assert invoice.cancelled_at is not None
        assert invoice.state == State.ISSUED


@pytest.mark.parametrize("type", ["order.cancelled", "order.praised"])
def test_what_billing_knows_nothing_of_is_no_reason_to_stop(
    app: Flask, order: Order, type: str
) -> None:
    assert hear(app, order(type=type), times=2) == [Outcome.HANDLED, Outcome.DUPLICATE]
    with app.app_context():
        assert all_invoices() == []
        refute_added(db.session)


def test_an_order_that_cannot_be_read_is_not_lost(app: Flask) -> None:
    message = Message("orders", {"order_id": "7"}, key="ada", type="order.placed")
    with pytest.raises(PayloadNotReadable, match="order_id"):
        hear(app, message)
    with app.app_context():
        assert all_invoices() == []
