"""A message that comes twice takes effect once, and who breaks that is told how."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from outbox import ConfigurationError, Message, Outbox
from outbox.inbox import Inbox, Outcome, ReceivedMessage
from outbox.testing import (
    CommitFailed,
    Faults,
    as_received,
    assert_takes_effect_once,
    deliver,
    drain,
    savepoints,
)
from tests.integration.writing import Database
from tests.testing.test_added import WAYS

inbox = Inbox("billing")
order = Message("orders", {"order": 1}, key="ada", type="order.placed", headers={"tenant": "acme"})

Begin = Callable[[], AbstractContextManager[Session]]


@pytest.fixture
def sessions(database: Database) -> sessionmaker[Session]:
    """Give sessions of a database that has bills."""
    database.execute("create table bill (order_id integer)")
    return sessionmaker(database.engine())


def write_bill(session: Session, message: ReceivedMessage) -> None:
    """Handle a message as an application does."""
    session.execute(
        text("insert into bill values (:order)"), {"order": json.loads(message.payload)["order"]}
    )


def bills(database: Database) -> list[int]:
    """Return the orders that were billed."""
    return [row["order_id"] for row in database_rows(database)]


def database_rows(database: Database) -> list[dict[str, Any]]:
    """Return all bills."""
    with database._connection() as connection:
        return [dict(row) for row in connection.execute("select * from bill").fetchall()]


def test_the_second_delivery_is_a_duplicate(
    sessions: sessionmaker[Session], database: Database
) -> None:
    """As with an InboxConsumer."""
    deliveries = deliver(inbox, order, write_bill, transaction_factory=sessions.begin)

    assert deliveries == [Outcome.HANDLED, Outcome.DUPLICATE]
    assert bills(database) == [1]


def test_what_was_drained_is_delivered_as_it_would_arrive(
    sessions: sessionmaker[Session], database: Database
) -> None:
    """The whole way, without a broker."""
    # Given a message that an application wrote
    seen: list[ReceivedMessage] = []
    with sessions.begin() as session:
        written = Outbox().add(
            session, "orders", {"order": 7}, key="ada", type="order.placed", headers={"a": "b"}
        )

    # When it is drained and delivered
    (message,) = drain(database.url)
    deliver(inbox, message, lambda _, m: seen.append(m), transaction_factory=sessions.begin)

    # Then the handler gets all that Kafka would bring
    assert len(seen) == 1
    assert seen[0].id == str(written.id)
    assert (seen[0].topic, seen[0].key, seen[0].payload) == ("orders", b"ada", b'{"order":7}')
    assert seen[0].type == "order.placed"
    assert ("a", b"b") in seen[0].headers
    assert seen[0].position == message.header("outbox-position")


def test_a_failure_is_reported_and_keeps_nothing(
    sessions: sessionmaker[Session], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """And the next delivery is a first one again."""
    # Given a handler that fails the first time, after it wrote
    failures = [ValueError("no such customer")]

    def failing(session: Session, message: ReceivedMessage) -> None:
        write_bill(session, message)
        if failures:
            raise failures.pop()

    # When the message comes three times
    with caplog.at_level(logging.ERROR):
        deliveries = deliver(inbox, order, failing, transaction_factory=sessions.begin, times=3)

    # Then it took effect once, and the failure is there to be looked at
    assert deliveries == [Outcome.FAILED, Outcome.HANDLED, Outcome.DUPLICATE]
    assert [str(error) for error in deliveries.errors] == ["no such customer"]
    assert "no such customer" in caplog.text
    assert bills(database) == [1]


def test_commits_fail_on_demand(sessions: sessionmaker[Session], database: Database) -> None:
    """Once before the database has committed, once before it could say so."""
    # Given a commit that fails, and one whose answer is lost
    faults = Faults()
    faults.fail_commits()
    faults.fail_commits(answer_lost=True)

    # When the message comes three times
    begin = sessions.begin
    deliveries = deliver(
        inbox, order, write_bill, transaction_factory=begin, times=3, faults=faults
    )

    # Then nothing is left of the first, and all of the second
    assert deliveries == [Outcome.FAILED, Outcome.FAILED, Outcome.DUPLICATE]
    assert all(isinstance(error, CommitFailed) for error in deliveries.errors)
    assert bills(database) == [1]


def test_a_factory_that_does_not_commit_is_found(sessions: sessionmaker[Session]) -> None:
    """As by the consumer."""
    with pytest.raises(ConfigurationError, match="does not commit"):
        deliver(inbox, order, write_bill, transaction_factory=sessions)


def test_a_coroutine_function_is_refused(sessions: sessionmaker[Session]) -> None:
    """As by the consumer."""

    async def later(session: Session, message: ReceivedMessage) -> None:
        """Never called."""

    with pytest.raises(TypeError, match="coroutine"):
        deliver(inbox, order, later, transaction_factory=sessions.begin)  # type: ignore[arg-type]  # on purpose


def test_what_is_no_message_is_refused(sessions: sessionmaker[Session]) -> None:
    """With what to pass."""
    with pytest.raises(TypeError, match=r"Message\(topic, payload, …\).* not dict"):
        deliver(inbox, {"order": 1}, write_bill, transaction_factory=sessions.begin)  # type: ignore[arg-type]  # on purpose


def test_wrong_arguments_are_refused(sessions: sessionmaker[Session]) -> None:
    """And are not taken for a handler that failed."""
    begin: Any = sessions.begin
    wrong: Any = "billing"
    with pytest.raises(TypeError, match="inbox must be an Inbox, not str"):
        deliver(wrong, order, write_bill, transaction_factory=begin)
    with pytest.raises(TypeError, match=r"a function, not str: sessionmaker\(engine\).begin"):
        deliver(inbox, order, write_bill, transaction_factory=wrong)
    with pytest.raises(ValueError, match="times must be a positive number, not 0"):
        deliver(inbox, order, write_bill, transaction_factory=begin, times=0)


def test_a_message_by_hand_arrives_as_json() -> None:
    """Bytes as they are, and a tombstone as one."""
    received = as_received(order, partition=3, offset=9)
    assert (received.partition, received.offset) == (3, 9)
    assert received.payload == b'{"order":1}'
    assert dict(received.headers)["content-type"] == b"application/json"
    assert dict(received.headers)["tenant"] == b"acme"
    assert as_received(Message("orders", b"\x00")).payload == b"\x00"
    assert as_received(Message("orders", None, key="ada")).payload is None
    assert as_received(received) is received


@pytest.mark.parametrize("begin", WAYS, ids=lambda begin: begin.__name__)
def test_savepoints_stand_for_transactions_within_a_test(begin: Any, database: Database) -> None:
    """What a handler did is gone when the test rolls back, whatever it used."""
    # Given a test's own transaction, which nothing has begun yet
    with begin(database) as transaction:
        # When a message comes, fails once, and comes again
        faults = Faults()
        faults.fail_commits()
        deliveries = deliver(
            inbox,
            order,
            lambda own, _: Outbox().add(own, "bills", {"bill": 1}),
            transaction_factory=savepoints(transaction),
            times=3,
            faults=faults,
        )

        # Then its effects are those of one delivery
        assert deliveries == [Outcome.FAILED, Outcome.HANDLED, Outcome.DUPLICATE]
        assert [message.topic for message in drain(transaction)] == ["bills"]
        # And nothing outlives the test
        transaction.rollback()
    assert database.rows() == []
    with database._connection() as connection:
        assert connection.execute("select * from inbox_message").fetchall() == []


@pytest.mark.parametrize("begin", WAYS, ids=lambda begin: begin.__name__)
def test_the_end_of_a_savepoint_commits_nothing(begin: Any, database: Database) -> None:
    """SQLite's first savepoint would be a transaction, if nothing began one before."""
    with begin(database) as transaction:
        with savepoints(transaction)():
            Outbox().add(transaction, "orders", {"order": 1})
        transaction.rollback()

    assert database.rows() == []


def test_savepoints_of_anything_else_are_refused() -> None:
    """With what to pass."""
    with pytest.raises(TypeError, match=r"savepoints\(\) needs"):
        savepoints(object())


def test_a_good_handler_takes_effect_once(
    sessions: sessionmaker[Session], database: Database
) -> None:
    """And the proof leaves its one effect behind."""
    assert_takes_effect_once(
        inbox,
        order,
        write_bill,
        transaction_factory=sessions.begin,
        effects=lambda: bills(database),
    )
    assert bills(database) == [1]


def test_an_effect_outside_of_the_transaction_is_found(sessions: sessionmaker[Session]) -> None:
    """An e-mail, say: it was sent although the commit failed."""
    mails: list[str] = []

    with pytest.raises(AssertionError, match=r"outlived the transaction.* was \[\] and is \['1'\]"):
        assert_takes_effect_once(
            inbox,
            order,
            lambda _session, _message: mails.append("1"),
            transaction_factory=sessions.begin,
            effects=lambda: mails,
        )


def test_a_second_effect_is_found(sessions: sessionmaker[Session], database: Database) -> None:
    """Of whatever writes it: here, of an inbox that takes every delivery for the first."""

    class Forgetful(Inbox):
        """Knows a message until it is asked a second time whether it does."""

        def record(self, transaction: Any, message: Any) -> bool:
            known = not super().record(transaction, message)
            if known:
                transaction.execute(text("delete from inbox_message"))
            return not known

    with pytest.raises(
        AssertionError, match=r"a second time: effects\(\) was \[1\] and is \[1, 1\]"
    ):
        assert_takes_effect_once(
            Forgetful("billing"),
            order,
            write_bill,
            transaction_factory=sessions.begin,
            effects=lambda: bills(database),
        )


def test_a_handler_without_effect_is_found(
    sessions: sessionmaker[Session], database: Database
) -> None:
    """Else the test would prove nothing."""
    with pytest.raises(AssertionError, match=r"no effect that effects\(\) shows: \[\]"):
        assert_takes_effect_once(
            inbox,
            order,
            lambda _session, _message: None,
            transaction_factory=sessions.begin,
            effects=lambda: bills(database),
        )


def test_a_handler_that_raises_is_named(sessions: sessionmaker[Session]) -> None:
    """With its own error as the cause."""

    def failing(session: Session, message: ReceivedMessage) -> None:
        raise ValueError("no such customer")

    with pytest.raises(AssertionError, match="no such customer") as raised:
        assert_takes_effect_once(
            inbox, order, failing, transaction_factory=sessions.begin, effects=list
        )
    assert isinstance(raised.value.__cause__, ValueError)


def test_a_message_that_was_there_before_is_found(
    sessions: sessionmaker[Session], database: Database
) -> None:
    """Else every delivery would be a duplicate, and nothing would be shown."""
    deliver(inbox, order, write_bill, transaction_factory=sessions.begin, times=1)

    with pytest.raises(AssertionError, match="use a new id"):
        assert_takes_effect_once(
            inbox,
            order,
            write_bill,
            transaction_factory=sessions.begin,
            effects=lambda: bills(database),
        )
