"""The consumer and the relay, with a Kafka."""

from __future__ import annotations

import json

from billing.commands import make_consumer
from billing.extensions import db
from billing.models import Invoice
from billing.orders import take_order
from conftest import Order
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from outbox.inbox import Outcome
from outbox.testing import KafkaMock, PublishedMessage

TURNS = 300
TRACE = "0af7651916cd43dd8448eb211c80319c"


def take(app: Flask, count: int, handler: object = take_order) -> list[Outcome]:
    """Let the consumer turn to so many messages."""
    outcomes = []
    with make_consumer(app) as consumer:
        for _ in range(TURNS):
            outcome = consumer.run_once(handler, timeout=0.1)  # type: ignore[arg-type]  # a handler
            outcomes += [outcome] if outcome else []
            if len(outcomes) == count:
                return outcomes
    raise AssertionError(f"{count} messages should have come, and there were {outcomes}")


def deliveries(client: FlaskClient, order_id: str) -> int:
    """Return what the shop is told."""
    answer = client.get(f"/api/orders/{order_id}")
    assert answer.status_code == 200
    count: int = answer.json["deliveries"]
    return count


def test_every_delivery_is_counted_and_one_takes_effect(
    app: Flask, order: Order, kafka_mock: KafkaMock
) -> None:
    # Given a message that Kafka has three times, and another one
    thrice, once = order(customer="ada"), order(customer="ada")
    kafka_mock.send(thrice, times=3)
    kafka_mock.send(once)

    # When
    outcomes = take(app, 4)

    # Then
    assert outcomes.count(Outcome.HANDLED) == 2
    client = app.test_client()
    assert deliveries(client, thrice.payload["order_id"]) == 3
    assert deliveries(client, once.payload["order_id"]) == 1
    with app.app_context():
        assert len(db.session.scalars(select(Invoice)).all()) == 2


def test_trying_again_is_no_delivery(app: Flask, order: Order, kafka_mock: KafkaMock) -> None:
    message = order()
    kafka_mock.send(message)
    failures = iter([ConnectionError("the tax office is closed"), None])

    def handler(session: object, message: object) -> None:
        if failure := next(failures):
            raise failure
        take_order(session, message)  # type: ignore[arg-type]  # as they came

    assert take(app, 2, handler) == [Outcome.FAILED, Outcome.HANDLED]
    assert deliveries(app.test_client(), message.payload["order_id"]) == 1


def test_what_is_read_again_is_counted(app: Flask, order: Order, kafka_mock: KafkaMock) -> None:
    # Given a message that was handled
    message = order()
    kafka_mock.send(message)
    take(app, 1)

    # When a group that knows nothing of that reads the topic from its beginning
    app.config["OUTBOX_KAFKA"] |= {"group.id": "billing-again"}
    outcomes = take(app, 1)

    # Then
    assert outcomes == [Outcome.DUPLICATE]
    assert deliveries(app.test_client(), message.payload["order_id"]) == 2


def test_the_answer_goes_to_kafka_in_the_trace_of_the_order(
    app: Flask, order: Order, kafka_mock: KafkaMock
) -> None:
    # Given an order that belongs to a trace
    message = order(customer="dora")
    headers = (
        ("id", str(message.id)),
        ("type", "order.placed"),
        ("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),
    )
    payload = json.dumps(message.payload).encode()
    kafka_mock.send(PublishedMessage("orders", "dora", payload, headers))
    take(app, 1)

    # When the relay runs
    drained = app.test_cli_runner().invoke(args=["outbox", "run", "--drain"])

    # Then
    assert drained.exit_code == 0, drained.output
    (answer,) = kafka_mock.read("invoices")
    assert (answer.key, answer.type) == (b"dora", "invoice.issued")
    assert json.loads(answer.payload or b"")["order_id"] == message.payload["order_id"]
    assert (answer.traceparent or "").split("-")[1] == TRACE
    told = app.test_client().get(f"/api/orders/{message.payload['order_id']}").json
    assert told["trace_id"] == TRACE
