"""The journey is told from what is known, and says so where something is not."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from orders.billing import Billed
from orders.journey import tell
from orders.log import LogEntry
from orders.models import Order

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def order(**changes: object) -> Order:
    return Order(customer="ada", amount=1, message_id=uuid.uuid4(), **changes)


def entry(*, published: bool = False, served: bool = True) -> LogEntry:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    return LogEntry(7, NOW, "orders", "ada", "order.placed", "{}", trace, published, served)


def billed(deliveries: int = 1, state: str = "issued") -> Billed:
    return Billed(state, deliveries, "m", "i", "")


def test_the_whole_way() -> None:
    journey = tell(
        order(answered_at=NOW, answers=1, invoice_id="i"), entry(published=True), billed()
    )
    assert [step.state for step in journey.steps] == ["done"] * 4
    assert journey.is_over
    assert journey.trace_id == "a" * 32


def test_the_beginning_of_the_way() -> None:
    journey = tell(order(), entry(), None)
    assert [step.state for step in journey.steps] == ["done", "waiting", "waiting", "waiting"]
    assert not journey.is_over


@pytest.mark.parametrize(
    ("served", "known", "sentence"),
    [
        (True, None, "The relay is on its way there."),
        (False, None, "No relay is running. The message waits; nothing is lost."),
        (True, billed(), "Kafka has it already; the relay has not noted that yet."),
    ],
)
def test_why_it_is_not_published(served: bool, known: Billed | None, sentence: str) -> None:
    published = tell(order(), entry(served=served), known).steps[1]
    assert (published.state, published.sentence) == ("waiting", sentence)


@pytest.mark.parametrize(("deliveries", "word"), [(1, "once"), (2, "twice"), (3, "3 times")])
def test_how_often_its_message_came(deliveries: int, word: str) -> None:
    step = tell(order(answers=1), entry(), billed(deliveries)).steps[2]
    assert (step.state, dict(step.facts)["delivered"]) == ("done", word)


def test_an_order_that_was_billed_twice_would_be_told_of() -> None:
    step = tell(order(answers=2), entry(), billed(2)).steps[2]
    assert (step.state, step.sentence) == ("failed", "Billed twice!")


def test_what_cannot_be_known_is_not_made_up() -> None:
    journey = tell(order(), None, "nobody answers")
    states = [step.state for step in journey.steps]
    assert states == ["unknown", "unknown", "unknown", "waiting"]
    assert "nobody answers" in journey.steps[2].sentence
    assert journey.trace_id == ""
