"""The pages."""

from __future__ import annotations

from uuid import UUID

from flask import Blueprint, Response, current_app, render_template
from sqlalchemy import func, select

from billing.extensions import db
from billing.models import Invoice

RECENT = 50

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def invoices() -> str:
    """Show the latest invoices."""
    latest = db.session.scalars(select(Invoice).order_by(Invoice.received_at.desc()).limit(RECENT))
    total = db.session.scalar(select(func.count(Invoice.id)))
    return render_template("invoices.html", invoices=latest.all(), total=total)


@blueprint.get("/invoices/<uuid:order_id>")
def invoice(order_id: UUID) -> str | tuple[str, int]:
    """Show what became of an order."""
    found = db.session.scalar(select(Invoice).where(Invoice.order_id == order_id))
    if found is None:
        return render_template("unknown.html", order_id=order_id), 404
    return render_template("invoice.html", invoice=found)


@blueprint.app_errorhandler(404)
def not_found(_: Exception) -> tuple[str, int]:
    """Say so in words."""
    return render_template("unknown.html", order_id=None), 404


@blueprint.app_context_processor
def surroundings() -> dict[str, str]:
    """Give every page the addresses of its neighbours."""
    return {
        "shop_url": current_app.config["SHOP_URL"],
        "traces_url": current_app.config["TRACES_URL"],
    }


@blueprint.after_app_request
def protect(response: Response) -> Response:
    """Let pages load nothing from elsewhere, and be no older than they are."""
    response.headers.setdefault("Content-Security-Policy", "default-src 'self'")
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    if response.mimetype in ("text/html", "application/json"):
        response.headers["Cache-Control"] = "no-store"
    return response
