"""manage.py consume_invoices"""

from __future__ import annotations

import signal
import threading

from django.conf import settings
from django.core.management.base import BaseCommand

from orders.invoices import take_answer
from outbox.django.inbox import Inbox, transactions
from outbox.inbox import InboxConsumer


class Command(BaseCommand):
    """Takes billing's answers from Kafka, until told to stop."""

    help = "Take billing's answers from Kafka and set the orders' states, until told to stop."

    def handle(self, *_: object, **__: object) -> None:
        """Run the consumer."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with InboxConsumer(
            Inbox("shop"),
            transaction_factory=transactions(),
            kafka={"bootstrap.servers": settings.KAFKA_BOOTSTRAP_SERVERS},
            topics=["invoices"],
        ) as consumer:
            consumer.run(take_answer, stop=stop)
