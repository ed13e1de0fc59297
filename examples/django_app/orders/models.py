"""Orders, and what is known of them."""

from __future__ import annotations

import uuid
from decimal import Decimal

from django.db import models
from django.utils import timezone

from orders.catalogue import CURRENCY


class Rush(models.Model):
    """Many orders at once, in the middle of which the relay was killed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    started_at = models.DateTimeField(default=timezone.now)
    #: The process that was killed, and at which order; null while that has not happened.
    killed_pid = models.PositiveIntegerField(null=True)
    killed_at_order = models.PositiveIntegerField(null=True)
    #: Whether Kafka had a message at that moment that the relay had not noted as delivered.
    killed_midway = models.BooleanField(default=False)

    class Meta:
        verbose_name_plural = "rushes"

    def __str__(self) -> str:
        return f"rush of {self.started_at:%H:%M:%S}"


class Order(models.Model):
    """An order, from the moment it is placed until billing has answered."""

    class State(models.TextChoices):
        PLACED = "placed", "waiting for the invoice"
        INVOICED = "invoiced", "invoice issued"
        REFUSED = "refused", "invoice refused"
        CANCELLED = "cancelled", "cancelled"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    customer = models.CharField(max_length=40)
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    currency = models.CharField(max_length=3, default=CURRENCY)
    placed_at = models.DateTimeField(default=timezone.now, db_index=True)
    state = models.CharField(max_length=10, choices=State, default=State.PLACED)
    #: The message that tells of it, so that its page can follow that message.
    message_id = models.UUIDField(null=True, editable=False)
    invoice_id = models.CharField(max_length=64, blank=True)
    reason = models.CharField(max_length=200, blank=True)
    #: How many answers came from billing. One order, one answer, however often a message is sent.
    answers = models.PositiveIntegerField(default=0)
    answered_at = models.DateTimeField(null=True)
    rush = models.ForeignKey(Rush, null=True, related_name="orders", on_delete=models.SET_NULL)

    class Meta:
        ordering = ("-placed_at",)

    def __str__(self) -> str:
        return f"{self.customer}'s order of {self.amount} {self.currency}"

    def as_message(self) -> dict[str, object]:
        """Return what the world is told when it is placed."""
        return {
            "order_id": self.id,
            "customer": self.customer,
            "amount": self.amount,
            "currency": self.currency,
            "items": [{"sku": line.sku, "quantity": line.quantity} for line in self.lines.all()],
            "placed_at": self.placed_at,
        }


class OrderLine(models.Model):
    """Some of one article."""

    order = models.ForeignKey(Order, related_name="lines", on_delete=models.CASCADE)
    sku = models.CharField(max_length=40)
    title = models.CharField(max_length=80)
    quantity = models.PositiveIntegerField()
    price = models.DecimalField(max_digits=8, decimal_places=2)

    class Meta:
        ordering = ("id",)

    def __str__(self) -> str:
        return f"{self.quantity} of {self.title}"

    @property
    def total(self) -> Decimal:
        """What these cost together."""
        return self.quantity * self.price
