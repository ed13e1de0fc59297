"""The billing service: it bills each order once, however often it hears of it."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from outbox.errors import OutboxError
from outbox.inbox.consumer import InboxConsumer
from outbox.inbox.handling import Outcome
from outbox.inbox.inbox import Inbox
from outbox.inbox.received import ReceivedMessage
from outbox.migrations import migrate


class Base(DeclarativeBase):
    """Billing's own tables."""


class Bill(Base):
    """A bill. Nothing in this table keeps an order from being billed twice; the inbox does."""

    __tablename__ = "bill"

    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int]
    customer: Mapped[str]
    cents: Mapped[int]


def write_bill(session: Session, message: ReceivedMessage) -> None:
    """Bill the order that the message tells of, in the transaction that records the message."""
    placed = json.loads(message.payload or b"null")
    session.add(Bill(order=placed["order"], customer=placed["customer"], cents=placed["cents"]))


class Billing:
    """Consumes orders in a thread of its own, into a database of its own."""

    def __init__(self, sessions: sessionmaker[Session], bootstrap_servers: str, topic: str) -> None:
        self._sessions = sessions
        self._kafka = {"bootstrap.servers": bootstrap_servers, "log_level": 0}
        self._topic = topic
        self._outcomes: Counter[Outcome] = Counter()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="billing", daemon=True)

    def open(self) -> None:
        """Begin to consume."""
        self._thread.start()

    def close(self) -> None:
        """Finish the message at hand, and end."""
        self._stop.set()
        self._thread.join()

    def wait_for(self, messages: int, timeout_s: float) -> None:
        """Wait until so many messages, repeats included, were turned to.

        Raises what ended the consumer, or OutboxError after `timeout_s` seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or self.received >= messages, timeout_s)
        if self._error is not None:
            raise self._error
        if self.received < messages:
            raise OutboxError(
                f"billing received {self.received} of {messages} messages in {timeout_s:g} s"
            )

    @property
    def received(self) -> int:
        """How many messages were turned to, repeats included."""
        return self._outcomes[Outcome.HANDLED] + self.recognised

    @property
    def recognised(self) -> int:
        """How many messages were recognised as repeats."""
        return self._outcomes[Outcome.DUPLICATE]

    def bills(self) -> list[tuple[int, str]]:
        """Return order and customer of each bill, in the order they were written."""
        with self._sessions() as session:
            rows = session.execute(select(Bill.order, Bill.customer).order_by(Bill.id))
            return [(row.order, row.customer) for row in rows]

    def _work(self) -> None:
        try:
            self._consume()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._error = error
            with self._changed:
                self._changed.notify_all()

    def _consume(self) -> None:
        with InboxConsumer(
            Inbox("billing"),
            transaction_factory=self._sessions.begin,
            kafka=self._kafka,
            topics=[self._topic],
        ) as consumer:
            while not self._stop.is_set():
                outcome = consumer.run_once(write_bill, timeout=0.1)
                if outcome is not None:
                    self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        with self._changed:
            self._outcomes[outcome] += 1
            self._changed.notify_all()


@contextmanager
def open_billing(path: Path, bootstrap_servers: str, topic: str) -> Iterator[Billing]:
    """Make billing's database, with its own table and that of the inbox, and let it consume."""
    migrate(f"sqlite:///{path}", only="inbox")
    engine = create_engine(f"sqlite:///{path}")
    try:
        Base.metadata.create_all(engine)
        billing = Billing(sessionmaker(engine), bootstrap_servers, topic)
        billing.open()
        try:
            yield billing
        finally:
            billing.close()
    finally:
        engine.dispose()
