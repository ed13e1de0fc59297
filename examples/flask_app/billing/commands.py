"""flask --app billing init-db | web | consume; `outbox run` is the extension's."""

from __future__ import annotations

import os
import signal
import threading

import click
from flask import Flask
from sqlalchemy.orm import Session

from billing.deliveries import CountingInbox
from billing.extensions import db, events
from billing.orders import take_order
from billing.topics import ORDERS
from outbox.flask import transactions
from outbox.inbox import InboxConsumer


def register(app: Flask) -> None:
    """Give the app its commands."""

    @app.cli.command("init-db")
    def init_db() -> None:
        """Make the tables: billing's own, and those of outbox and inbox."""
        db.create_all()
        events.migrate()

    @app.cli.command()
    @click.option("--host", default="127.0.0.1", show_default=True)
    @click.option("--port", default=lambda: int(os.environ.get("BILLING_PORT", "8002")))
    def web(host: str, port: int) -> None:
        """Serve the pages."""
        from waitress import serve

        click.echo(f"billing listens on http://{host}:{port}/", err=True)
        serve(app, host=host, port=port)

    @app.cli.command()
    def consume() -> None:
        """Take orders from Kafka until told to stop."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with make_consumer(app) as consumer:
            consumer.run(take_order, stop=stop)


def make_consumer(app: Flask) -> InboxConsumer[Session]:
    """Return what takes orders from Kafka, each once."""
    return InboxConsumer(
        CountingInbox("billing"),
        transaction_factory=transactions(app),
        kafka=app.config["OUTBOX_KAFKA"],
        topics=[ORDERS.name],
    )
