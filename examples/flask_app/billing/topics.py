"""What billing hears and says: the contract with the shop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from outbox import Topic


@dataclass(frozen=True)
class Item:
    """Some of one article."""

    sku: str
    quantity: int


@dataclass(frozen=True)
class OrderPlaced:
    """Somebody wants something."""

    order_id: UUID
    customer: str
    amount: Decimal
    currency: str
    items: list[Item]
    placed_at: datetime


@dataclass(frozen=True)
class OrderCancelled:
    """Somebody wants it no more."""

    order_id: UUID
    customer: str


ORDERS = Topic("orders", OrderPlaced, type="order.placed") | Topic(
    "orders", OrderCancelled, type="order.cancelled"
)


@dataclass(frozen=True)
class InvoiceIssued:
    """There is an invoice."""

    invoice_id: UUID
    order_id: UUID
    customer: str
    amount: Decimal
    currency: str
    issued_at: datetime


@dataclass(frozen=True)
class InvoiceRefused:
    """There will be none."""

    order_id: UUID
    customer: str
    reason: str


def _customer(answer: InvoiceIssued | InvoiceRefused) -> str:
    return answer.customer


INVOICES = Topic("invoices", InvoiceIssued, type="invoice.issued", key=_customer) | Topic(
    "invoices", InvoiceRefused, type="invoice.refused", key=_customer
)
