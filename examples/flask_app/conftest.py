"""An app of its own for every test, with its tables."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from billing import create_app
from billing.extensions import db, events
from flask import Flask

from outbox import Message
from outbox.testing import KafkaMock

Order = Callable[..., Message]


@pytest.fixture
def app(tmp_path: Path, kafka_mock: KafkaMock) -> Iterator[Flask]:
    """Make the app, with a database and a Kafka of its own."""
    kafka_mock.create_topic("orders", partitions=2)
    kafka_mock.create_topic("invoices", partitions=2)
    made = create_app(
        {
            "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/billing.db",
            "OUTBOX_KAFKA": {"bootstrap.servers": kafka_mock.bootstrap_servers},
            "SHOP_URL": "http://shop.example",
            "TESTING": True,
        }
    )
    with made.app_context():
        db.create_all()
        events.migrate()
    yield made
    with made.app_context():
        db.engine.dispose()


@pytest.fixture
def order() -> Order:
    """Return a function that makes the shop's messages."""

    def make(
        customer: str = "ada", amount: str = "12.50", order_id: str | None = None, **more: Any
    ) -> Message:
        payload = {
            "order_id": order_id or str(uuid.uuid4()),
            "customer": customer,
            "amount": amount,
            "currency": "EUR",
            "items": [{"sku": "fork-440", "quantity": 1}],
            "placed_at": "2026-02-03T04:05:06.789+00:00",
        }
        return Message("orders", payload, key=customer, **{"type": "order.placed", **more})

    return make
