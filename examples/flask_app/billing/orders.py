"""Orders become invoices: each once, in one transaction with the inbox and the answer."""

from __future__ import annotations

import logging
from decimal import Decimal
from uuid import UUID

from flask import current_app
from sqlalchemy import select
from sqlalchemy.orm import Session

from billing.extensions import events
from billing.models import Invoice, State, now
from billing.topics import (
    INVOICES,
    ORDERS,
    InvoiceIssued,
    InvoiceRefused,
    OrderCancelled,
    OrderPlaced,
)
from outbox.inbox import ReceivedMessage

logger = logging.getLogger(__name__)

_KNOWN = ("order.placed", "order.cancelled")


def take_order(session: Session, message: ReceivedMessage) -> None:
    """Do what a message about an order asks for. Called once for each message."""
    if message.type not in _KNOWN:
        logger.info("nothing to do for a message of type %s", message.type)
        return
    order = ORDERS.decode(message)
    if isinstance(order, OrderCancelled):
        _cancel(session, order)
    elif _find(session, order.order_id):
        # Not the same message, which the inbox would know, but another one about the same order.
        logger.warning("order %s is billed already", order.order_id)
    else:
        _bill(session, order, message)


def _bill(session: Session, order: OrderPlaced, message: ReceivedMessage) -> None:
    reason = _objection(order)
    invoice = Invoice(
        order_id=order.order_id,
        customer=order.customer,
        amount=order.amount,
        currency=order.currency,
        state=State.REFUSED if reason else State.ISSUED,
        reason=reason,
        message_id=message.id,
        trace_id=trace_id(message),
    )
    session.add(invoice)
    session.flush()  # gives it its id and its time
    events.add(session, INVOICES, _answer(invoice))


def _objection(order: OrderPlaced) -> str:
    limit: Decimal = current_app.config["CREDIT_LIMIT"]
    if order.amount <= limit:
        return ""
    return f"over the credit limit of {limit:,.2f} {order.currency}"


def _answer(invoice: Invoice) -> InvoiceIssued | InvoiceRefused:
    if invoice.state == State.REFUSED:
        return InvoiceRefused(invoice.order_id, invoice.customer, invoice.reason)
    return InvoiceIssued(
        invoice_id=invoice.id,
        order_id=invoice.order_id,
        customer=invoice.customer,
        amount=invoice.amount,
        currency=invoice.currency,
        issued_at=invoice.received_at,
    )


def _cancel(session: Session, order: OrderCancelled) -> None:
    invoice = _find(session, order.order_id)
    if invoice is None:
        logger.warning("order %s is cancelled, and nobody has placed it", order.order_id)
    else:
        invoice.cancelled_at = now()


def _find(session: Session, order_id: UUID) -> Invoice | None:
    return session.scalar(select(Invoice).where(Invoice.order_id == order_id))


def trace_id(message: ReceivedMessage) -> str:
    """Return the trace that a message belongs to, empty where nothing traces."""
    return message.traceparent.split("-")[1] if message.traceparent else ""
