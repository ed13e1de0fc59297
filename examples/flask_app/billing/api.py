"""What other services, and whoever watches this one, ask for."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint
from sqlalchemy import select, text

from billing.extensions import db
from billing.models import Invoice

blueprint = Blueprint("api", __name__)


@blueprint.get("/api/orders/<uuid:order_id>")
def order(order_id: UUID) -> tuple[dict[str, object], int]:
    """Say what became of an order, 404 as long as billing has not heard of it."""
    invoice = db.session.scalar(select(Invoice).where(Invoice.order_id == order_id))
    if invoice is None:
        return {"error": f"billing has not heard of order {order_id}"}, 404
    return as_json(invoice), 200


def as_json(invoice: Invoice) -> dict[str, object]:
    """Return what is said of an invoice."""
    cancelled_at = invoice.cancelled_at
    return {
        "order_id": str(invoice.order_id),
        "state": invoice.state,
        "reason": invoice.reason or None,
        "invoice_id": str(invoice.number) if invoice.number else None,
        "message_id": invoice.message_id,
        "deliveries": invoice.deliveries,
        "trace_id": invoice.trace_id or None,
        "received_at": invoice.received_at.isoformat(),
        "cancelled_at": cancelled_at.isoformat() if cancelled_at else None,
    }


@blueprint.get("/healthz")
def healthz() -> dict[str, str]:
    """Say whether pages can be served."""
    db.session.execute(text("select 1"))
    return {"status": "ok"}
