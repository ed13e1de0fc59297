"""What was promised, checked against what the databases and the topic hold. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """What was found when all was over; orders are known by their numbers.

    `tried` and `declined`: what the shop says it did. `orders`: the customer of each order in its
    database. `messages`: order and customer of each message in Kafka, each partition in its order.
    `bills`: order and customer of each bill, as they were written.
    """

    tried: Sequence[int]
    declined: Sequence[int]
    orders: Mapping[int, str]
    messages: Sequence[tuple[int, str]]
    bills: Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Verdict:
    """The numbers, and every way in which they break a promise."""

    committed: int
    rolled_back: int
    in_kafka: int
    repeats: int
    billed: int
    lost: int
    problems: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The last line of the demo."""
        if self.problems:
            return f"FAILED: {'; '.join(self.problems)}"
        return (
            f"verified: {self.committed} orders committed, {self.rolled_back} rolled back, "
            f"{self.in_kafka} messages in Kafka ({self.repeats} sent again), "
            f"{self.billed} billed, each once, in order; {self.lost} lost"
        )


def judge(found: Evidence) -> Verdict:
    """Count, and compare with what was promised."""
    sent = {order for order, _ in found.messages}
    billed = {order for order, _ in found.bills}
    return Verdict(
        committed=len(found.orders),
        rolled_back=len(set(found.tried) - found.orders.keys()),
        in_kafka=len(found.messages),
        repeats=len(found.messages) - len(sent),
        billed=len(found.bills),
        lost=len(found.orders.keys() - (sent & billed)),
        problems=tuple(_problems(found, sent, billed)),
    )


def _problems(found: Evidence, sent: set[int], billed: set[int]) -> Iterator[str]:
    committed = found.orders.keys()
    bills = Counter(order for order, _ in found.bills)
    wrong = {
        "committed, and not in Kafka": committed - sent,
        "committed, and not billed": committed - billed,
        "billed more than once": {order for order, times in bills.items() if times > 1},
        "rolled back, and sent or billed": (sent | billed) - committed,
        "declined, and in the shop's database": committed & set(found.declined),
        "overtaken in Kafka by a later order of the customer": _overtaken(_first(found.messages)),
        "billed after a later order of the customer": _overtaken(found.bills),
    }
    for problem, orders in wrong.items():
        if orders:
            yield f"{problem}: {', '.join(map(str, sorted(orders)))}"
    if len(sent) == len(found.messages):
        yield "no message was sent again, so the relay was not killed midway"


def _first(messages: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the first occurrence of each."""
    return list(dict.fromkeys(messages))


def _overtaken(events: Sequence[tuple[int, str]]) -> set[int]:
    """Return the orders that come after a later one of the same customer."""
    latest: dict[str, int] = {}
    overtaken = set()
    for order, customer in events:
        if order < latest.get(customer, 0):
            overtaken.add(order)
        latest[customer] = max(order, latest.get(customer, 0))
    return overtaken
