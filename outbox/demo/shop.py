"""The shop: it takes orders, and tells the world of each in the same transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from outbox.migrations import migrate
from outbox.writer.outbox import Outbox

TOPIC = "orders"
CUSTOMERS = ("ada", "ben", "cleo", "dora", "emil", "fay", "gus")

#: Every so many orders a card is declined.
DECLINED = 5

events = Outbox()


class Base(DeclarativeBase):
    """The shop's own tables."""


class Order(Base):
    """An order; `number` is printed on the receipt, also when the card is declined afterwards."""

    __tablename__ = "shop_order"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    customer: Mapped[str]
    cents: Mapped[int]


class CardDeclined(Exception):
    """The customer cannot pay."""


@dataclass(frozen=True)
class Shop:
    """A shop with a database of its own, which also holds the outbox."""

    sessions: sessionmaker[Session]

    def take_orders(self, numbers: Iterable[int]) -> list[int]:
        """Take an order for each number and return those whose card was declined."""
        return [number for number in numbers if not self._take_order(number)]

    def _take_order(self, number: int) -> bool:
        try:
            with self.sessions.begin() as session:
                place_order(session, number, CUSTOMERS[number % len(CUSTOMERS)])
                charge_card(number)
        except CardDeclined:
            return False
        return True

    def orders(self) -> dict[int, str]:
        """Return the customer of each order that is in the database, in order of the numbers."""
        with self.sessions() as session:
            rows = session.execute(select(Order.number, Order.customer).order_by(Order.number))
            return {row.number: row.customer for row in rows}

    def count(self) -> int:
        """Return how many orders the database holds."""
        with self.sessions() as session:
            return session.scalar(select(func.count()).select_from(Order)) or 0


def place_order(session: Session, number: int, customer: str) -> None:
    """Write the order and its message; both or neither will be there after the commit."""
    order = Order(number=number, customer=customer, cents=100 * number + 99)
    session.add(order)
    events.add(
        session,
        TOPIC,
        {"order": order.number, "customer": order.customer, "cents": order.cents},
        key=order.customer,
        type="order.placed",
    )


def charge_card(number: int) -> None:
    """Raise CardDeclined now and then: the order and its message are written by then."""
    if number % DECLINED == 0:
        raise CardDeclined


@contextmanager
def open_shop(path: Path) -> Iterator[Shop]:
    """Make the shop's database, with its own tables and those of the outbox."""
    migrate(f"sqlite:///{path}", only="outbox")
    engine = create_engine(f"sqlite:///{path}")
    try:
        Base.metadata.create_all(engine)
        yield Shop(sessionmaker(engine))
    finally:
        engine.dispose()
