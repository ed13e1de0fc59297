"""The pages and the API."""

from __future__ import annotations

import re
from decimal import Decimal
from uuid import uuid4

import pytest
from billing.extensions import db
from billing.models import Invoice, State
from billing.pages import RECENT
from flask import Flask
from flask.testing import FlaskClient

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Give a browser."""
    return app.test_client()


def add_invoice(app: Flask, **changes: object) -> Invoice:
    """Write an invoice, as if its order had come."""
    values: dict[str, object] = {
        "order_id": uuid4(),
        "customer": "ada",
        "amount": Decimal("1234"),
        "currency": "EUR",
        "state": State.ISSUED,
        "message_id": str(uuid4()),
    }
    with app.app_context():
        invoice = Invoice(**{**values, **changes})
        db.session.add(invoice)
        db.session.commit()
        db.session.refresh(invoice)
        db.session.expunge(invoice)
    return invoice


def test_without_invoices_the_page_says_where_to_begin(client: FlaskClient) -> None:
    page = client.get("/").text
    assert "No order has come yet" in page
    assert 'href="http://shop.example/"' in page


def test_the_list_shows_what_came_and_how_often(app: Flask, client: FlaskClient) -> None:
    invoice = add_invoice(app, customer="Zoë <b>", trace_id=TRACE)
    page = client.get("/").text
    for shown in (str(invoice.order_id), invoice.message_id, TRACE, "1,234.00 EUR"):
        assert shown in page
    assert "Zoë &lt;b&gt;" in page


def test_the_list_is_the_latest(app: Flask, client: FlaskClient) -> None:
    for _ in range(RECENT + 1):
        add_invoice(app)
    page = client.get("/").text
    assert len(re.findall("<tr data-order", page)) == RECENT
    assert f"The latest {RECENT} of {RECENT + 1}" in page


def test_an_order_has_a_page(app: Flask, client: FlaskClient) -> None:
    refused = add_invoice(app, state=State.REFUSED, reason="over the limit")
    page = client.get(f"/invoices/{refused.order_id}").text
    assert "over the limit" in page
    assert str(refused.id) not in page
    assert f'href="http://shop.example/orders/{refused.order_id}/"' in page


@pytest.mark.parametrize("path", [f"/invoices/{uuid4()}", "/invoices/7", "/nowhere"])
def test_what_is_not_there_is_a_page_too(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "All invoices" in answer.text


def test_the_shop_is_told_what_became_of_an_order(app: Flask, client: FlaskClient) -> None:
    invoice = add_invoice(app, trace_id=TRACE)
    assert client.get(f"/api/orders/{invoice.order_id}").json == {
        "order_id": str(invoice.order_id),
        "state": "issued",
        "reason": None,
        "invoice_id": str(invoice.id),
        "message_id": invoice.message_id,
        "deliveries": 0,
        "trace_id": TRACE,
        "received_at": invoice.received_at.isoformat(),
        "cancelled_at": None,
    }


def test_the_shop_is_told_of_an_order_that_has_not_come(client: FlaskClient) -> None:
    answer = client.get(f"/api/orders/{uuid4()}")
    assert answer.status_code == 404
    assert "has not heard" in answer.json["error"]


def test_who_watches_is_told_that_all_is_well(client: FlaskClient) -> None:
    assert client.get("/healthz").json == {"status": "ok"}


def test_pages_load_nothing_from_elsewhere(client: FlaskClient) -> None:
    answer = client.get("/")
    assert answer.headers["Content-Security-Policy"] == "default-src 'self'"
    assert "style=" not in answer.text
    for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        with client.get(address) as asset:
            assert asset.status_code == 200
