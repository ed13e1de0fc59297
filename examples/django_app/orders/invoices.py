"""What billing answers: an invoice, or why there is none."""

from __future__ import annotations

import json
import logging

from django.db.models import F
from django.utils import timezone

from orders.models import Order
from outbox.inbox import ReceivedMessage

logger = logging.getLogger(__name__)


def take_answer(_: object, message: ReceivedMessage) -> None:
    """Let an order know what billing said of it. Called once for each message."""
    answer = json.loads(message.payload or b"null")
    if message.type == "invoice.issued":
        told = {"state": Order.State.INVOICED, "invoice_id": answer["invoice_id"]}
    elif message.type == "invoice.refused":
        told = {"state": Order.State.REFUSED, "reason": answer["reason"]}
    else:
        logger.info("nothing to do for a message of type %s", message.type)
        return
    orders = Order.objects.filter(pk=answer["order_id"])
    orders.update(answers=F("answers") + 1, answered_at=timezone.now())
    orders.exclude(state=Order.State.CANCELLED).update(**told)
