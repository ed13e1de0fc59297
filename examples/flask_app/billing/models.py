"""Invoices, and how often the messages came that they are for."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID, uuid4

from sqlalchemy import String, func, select
from sqlalchemy.orm import Mapped, column_property, mapped_column

from billing.columns import Moment, Money
from billing.extensions import db


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


class State(enum.StrEnum):
    """What billing said to an order."""

    ISSUED = "issued"
    REFUSED = "refused"


class Delivery(db.Model):
    """A message that Kafka handed over: one row each time it came."""

    __tablename__ = "billing_delivery"

    id: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str] = mapped_column(String(1024), index=True)
    topic: Mapped[str]
    partition: Mapped[int]
    offset: Mapped[int]
    received_at: Mapped[datetime] = mapped_column(Moment, default=now)


class Invoice(db.Model):
    """What billing made of an order: an invoice, or the reason why there is none."""

    __tablename__ = "billing_invoice"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    order_id: Mapped[UUID] = mapped_column(unique=True)
    customer: Mapped[str]
    amount: Mapped[Decimal] = mapped_column(Money)
    currency: Mapped[str]
    state: Mapped[State] = mapped_column(String(10))
    reason: Mapped[str] = mapped_column(default="")
    #: The message that told of the order, and the trace that it belongs to.
    message_id: Mapped[str] = mapped_column(String(1024))
    trace_id: Mapped[str] = mapped_column(default="")
    received_at: Mapped[datetime] = mapped_column(Moment, default=now, index=True)
    cancelled_at: Mapped[datetime | None] = mapped_column(Moment)

    deliveries: Mapped[int] = column_property(
        select(func.count(Delivery.id))
        .where(Delivery.message_id == message_id)
        .correlate_except(Delivery)
        .scalar_subquery()
    )

    @property
    def number(self) -> UUID | None:
        """The invoice's id, None where there is no invoice."""
        return self.id if self.state == State.ISSUED else None
