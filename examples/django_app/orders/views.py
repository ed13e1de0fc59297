"""The shop's pages."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from pathlib import Path

from django.conf import settings
from django.contrib import messages
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from orders.forms import OrderForm
from orders.journey import journey_of
from orders.models import Order, Rush
from orders.placing import cancel_order, fail_to_place_order, place_order
from orders.rush import look_back, rush_and_kill
from orders.traces import spans_of
from outbox.django.models import OutboxMessage

RECENT = 12


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def shop(request: HttpRequest) -> HttpResponse:
    """Show the form and the latest orders; take an order."""
    form = OrderForm(request.POST or None, label_suffix="")
    if request.method == "POST" and form.is_valid():
        return _take(request, form)
    page = {
        "form": form,
        "orders": Order.objects.all()[:RECENT],
        "total": Order.objects.count(),
        "relay_can_be_killed": bool(settings.RELAY_PID_FILE),
    }
    return render(request, "orders/shop.html", page)


def _take(request: HttpRequest, form: OrderForm) -> HttpResponse:
    customer, basket = form.cleaned_data["customer"], form.basket
    if form.is_to_fail:
        request.session["attempt"] = fail_to_place_order(customer, basket).as_json()
        return redirect("failed")
    return redirect("order", place_order(customer, basket).id)


@never_cache
@require_safe
def order(request: HttpRequest, order_id: uuid.UUID) -> HttpResponse:
    """Show an order and its journey."""
    return render(request, "orders/order.html", _order_page(order_id))


@never_cache
@require_safe
def journey(request: HttpRequest, order_id: uuid.UUID) -> HttpResponse:
    """Return the part of the page that changes."""
    return render(request, "orders/journey.html", _order_page(order_id))


def _order_page(order_id: uuid.UUID) -> dict[str, object]:
    found = get_object_or_404(Order, pk=order_id)
    told = journey_of(found)
    return {"order": found, "journey": told, "spans": spans_of(told.trace_id)}


@never_cache
@require_safe
def order_as_json(request: HttpRequest, order_id: uuid.UUID) -> JsonResponse:  # noqa: ARG001 - Django's signature
    """Return the journey for programs, the page's own script among them."""
    found = get_object_or_404(Order, pk=order_id)
    told = journey_of(found)
    spans = spans_of(told.trace_id)
    return JsonResponse(
        {
            "order_id": found.id,
            "state": found.state,
            "message_id": found.message_id,
            "steps": [{"name": step.name, "state": step.state} for step in told.steps],
            "is_over": told.is_over,
            "trace_id": told.trace_id,
            "spans": None if spans is None else [asdict(span) for span in spans],
        }
    )


@require_POST
def cancel(request: HttpRequest, order_id: uuid.UUID) -> HttpResponse:
    """Cancel an order."""
    get_object_or_404(Order, pk=order_id)
    if cancel_order(order_id):
        messages.success(request, "Cancelled, and the world was told in the same transaction.")
    else:
        messages.error(request, "There is nothing left to cancel.")
    return redirect("order", order_id)


@never_cache
@require_safe
def failed(request: HttpRequest) -> HttpResponse:
    """Show what is left of an order that failed: look for it now, in both tables."""
    attempt = request.session.get("attempt")
    if attempt is None:
        return redirect("shop")
    left = {
        "orders": Order.objects.filter(pk=attempt["order_id"]).count(),
        "messages": OutboxMessage.objects.filter(message_id=attempt["message_id"]).count(),
    }
    return render(request, "orders/failed.html", {"attempt": attempt, "left": left})


@require_POST
def start_rush(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - Django's signature
    """Place many orders, and kill the relay in the middle."""
    if not settings.RELAY_PID_FILE:
        raise Http404("nobody has said which process the relay is")
    return redirect("rush", rush_and_kill(Path(settings.RELAY_PID_FILE)).id)


@never_cache
@require_safe
def rush(request: HttpRequest, rush_id: uuid.UUID) -> HttpResponse:
    """Show what came of a rush."""
    found = get_object_or_404(Rush, pk=rush_id)
    return render(request, "orders/rush.html", {"rush": found, "verdict": look_back(found)})


@never_cache
@require_safe
def rush_as_json(request: HttpRequest, rush_id: uuid.UUID) -> JsonResponse:  # noqa: ARG001 - Django's signature
    """Return what came of a rush, for programs."""
    verdict = look_back(get_object_or_404(Rush, pk=rush_id))
    return JsonResponse(asdict(verdict) | {"is_over": verdict.is_over})


@never_cache
@require_safe
def rush_table(request: HttpRequest, rush_id: uuid.UUID) -> HttpResponse:
    """Return the part of the rush's page that changes."""
    found = get_object_or_404(Rush, pk=rush_id)
    return render(request, "orders/verdict.html", {"rush": found, "verdict": look_back(found)})


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:  # noqa: ARG001 - Django's signature
    """Say whether pages can be served."""
    connection.ensure_connection()
    return JsonResponse({"status": "ok"})


def surroundings(request: HttpRequest) -> dict[str, str]:  # noqa: ARG001 - Django's signature
    """Give every page the addresses of its neighbours."""
    return {
        "billing_url": settings.BILLING_PUBLIC_URL,
        "traces_url": settings.TRACES_PUBLIC_URL,
    }
