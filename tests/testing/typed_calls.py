"""What a type checker sees of the test helpers; it must complain of the lines that say so."""

from __future__ import annotations

from typing import assert_type

import pytest
from sqlalchemy.orm import Session, sessionmaker

from outbox import Message, Topic
from outbox.inbox import Inbox, ReceivedMessage
from outbox.testing import (
    AddedMessage,
    AsyncOutboxLog,
    Deliveries,
    Faults,
    KafkaMock,
    OutboxLog,
    PublishedMessage,
    assert_added,
    assert_added_async,
    assert_takes_effect_once,
    containing,
    deliver,
    drain,
    savepoints,
)

sessions: sessionmaker[Session] = sessionmaker()
billing = Inbox("billing")
orders = Topic("orders", dict)


@pytest.fixture
def log(outbox_log: type[OutboxLog], session: Session) -> OutboxLog:
    """As in a user's conftest.py."""
    return outbox_log(session)


def write_bill(session: Session, message: ReceivedMessage) -> None:
    """Handle a message."""


def what_was_added(log: OutboxLog, session: Session) -> None:
    """One message, or as many as were counted."""
    assert_type(log.assert_added("orders", key=1, payload=containing({"a": 1})), AddedMessage)
    assert_type(log.assert_added(orders, count=2), list[AddedMessage])
    assert_type(assert_added(session, "orders", type=None), AddedMessage)
    assert_type(assert_added(session, "orders", count=2), list[AddedMessage])
    assert_type(log.added(headers={"tenant": "acme"}), list[AddedMessage])
    log.refute_added()
    log.assert_added("orders", paylod={})  # wrong
    log.assert_added()  # wrong
    log.assert_added("orders", count="2")  # wrong
    log.refute_added(7)  # wrong


def what_happens_then(session: Session, outbox_faults: Faults, kafka_mock: KafkaMock) -> None:
    """The transaction of a factory and that of the handler are of one type."""
    messages = drain(session, faults=outbox_faults)
    assert_type(messages, list[PublishedMessage])
    begin = outbox_faults.transactions(sessions.begin)
    deliveries = deliver(billing, messages[0], write_bill, transaction_factory=begin)
    assert_type(deliveries, Deliveries)
    within = savepoints(session)
    by_hand = Message("orders", {"order": 1})
    assert_takes_effect_once(
        billing, by_hand, write_bill, transaction_factory=within, effects=lambda: [1]
    )
    deliver(billing, {"order": 1}, write_bill, transaction_factory=within)  # wrong
    kafka_mock.send(by_hand, *messages, times=2)
    assert_type(kafka_mock.read("orders"), list[ReceivedMessage])


async def what_is_awaited(outbox_log_async: type[AsyncOutboxLog], session: object) -> None:
    """The same for asyncio."""
    log = await outbox_log_async.open(session)
    assert_type(await log.assert_added("orders", key="ada"), AddedMessage)
    assert_type(await log.assert_added("orders", count=1), list[AddedMessage])
    assert_type(await assert_added_async(session, "orders"), AddedMessage)
    print(log.assert_added("orders").data)  # wrong
