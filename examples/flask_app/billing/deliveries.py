"""Count how often each message comes, whether it takes effect or not."""

from __future__ import annotations

from sqlalchemy.orm import Session

from billing.extensions import db
from billing.models import Delivery
from outbox.inbox import Inbox, ReceivedMessage


class CountingInbox(Inbox):
    """An inbox that also notes every delivery, in a transaction of its own.

    So it counts what the inbox keeps from the handler, and what a rollback takes back. It belongs
    to one consumer, and needs an app context.
    """

    def __init__(self, consumer: str, /) -> None:
        super().__init__(consumer)
        self._latest: dict[tuple[str, int], int] = {}

    def record(self, transaction: object, message: object) -> bool:
        """Count the delivery, then do what an Inbox does."""
        if isinstance(message, ReceivedMessage):
            self._count(message)
        return super().record(transaction, message)  # type: ignore[arg-type]  # it looks itself

    def _count(self, message: ReceivedMessage) -> None:
        # The consumer comes back to the same place when a handler has failed, and once to see that
        # the first transaction was committed. Kafka has handed over nothing new then.
        place = message.topic, message.partition
        if self._latest.get(place) == message.offset:
            return
        with Session(db.engine) as session, session.begin():
            session.add(
                Delivery(
                    message_id=message.id,
                    topic=message.topic,
                    partition=message.partition,
                    offset=message.offset,
                )
            )
        self._latest[place] = message.offset
