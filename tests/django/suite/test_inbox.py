"""The consumer's side: one transaction for the inbox row and what the handler does with the ORM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TestCase

from outbox import NotInTransaction
from outbox.django.inbox import Inbox, record, record_all, transactions
from outbox.django.models import InboxMessage
from outbox.inbox import Outcome, ReceivedMessage
from outbox.inbox.handling import Handling
from tests.django.suite.shop.models import Order
from tests.django.suite.test_models import received

committing = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def place(_: BaseDatabaseWrapper, message: ReceivedMessage) -> None:
    Order.objects.create(customer=message.id)


def handle(
    handler: Callable[[BaseDatabaseWrapper, ReceivedMessage], None], using: str = "default"
) -> Outcome:
    return Handling(Inbox("billing"), transactions(using)).handle(handler, received())


@committing
def test_a_message_takes_effect_once() -> None:
    assert handle(place) is Outcome.HANDLED
    assert handle(place) is Outcome.DUPLICATE

    assert Order.objects.count() == 1


@committing
def test_what_the_handler_did_and_the_row_go_together() -> None:
    def fail(connection: BaseDatabaseWrapper, message: ReceivedMessage) -> None:
        place(connection, message)
        assert InboxMessage.objects.count() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        handle(fail)

    assert (Order.objects.count(), InboxMessage.objects.count()) == (0, 0)
    assert handle(place) is Outcome.HANDLED


@committing
def test_the_handler_gets_the_connection_of_the_alias_in_a_transaction() -> None:
    def look(given: BaseDatabaseWrapper, _: ReceivedMessage) -> None:
        assert given.alias == "other"
        assert given.in_atomic_block

    assert handle(look, "other") is Outcome.HANDLED
    assert InboxMessage.objects.using("other").count() == 1


@committing
def test_a_handler_within_another_transaction_is_refused_since_it_would_not_commit() -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        handle(place)


@committing
def test_between_messages_connections_are_closed_as_between_requests() -> None:
    handle(place)

    assert connections["default"].connection is None  # CONN_MAX_AGE is 0


@committing
def test_a_connection_that_broke_is_replaced_for_the_next_message() -> None:
    if connections["default"].vendor == "sqlite":
        pytest.skip("a file does not go away")
    # Given a connection that is kept between messages, and breaks
    kept = connections["default"]
    kept.ensure_connection()
    kept.close_at = None
    kept.connection.close()
    kept.errors_occurred = True

    assert handle(place) is Outcome.HANDLED


@committing
def test_record_refuses_outside_a_transaction() -> None:
    with pytest.raises(NotInTransaction):
        record(received(), consumer="billing")

    assert InboxMessage.objects.count() == 0


@committing
def test_record_says_whether_it_is_the_first_time_for_this_consumer() -> None:
    with transaction.atomic():
        assert record(received(), consumer="billing")
        assert not record(received(), consumer="billing")
        assert record(received(), consumer="stock")


@committing
def test_a_batch_gives_back_what_is_new_in_its_order() -> None:
    first, second = received(), replace(received(), id="100 % new: %s")
    with transaction.atomic():
        assert record(first, consumer="billing")
        assert record_all([second, first, second], consumer="billing") == [second]
        assert record_all([second, first], consumer="stock") == [second, first]

    with transaction.atomic(using="other"):
        assert record_all([first], consumer="billing", using="other") == [first]
    assert InboxMessage.objects.filter(consumer="billing").count() == 2


@committing
def test_a_batch_is_refused_outside_a_transaction() -> None:
    with pytest.raises(NotInTransaction):
        record_all([received()], consumer="billing")

    assert InboxMessage.objects.count() == 0


@committing
def test_a_batch_is_one_query(django_assert_num_queries: Callable[[int], Any]) -> None:
    messages = [replace(received(), id=str(number)) for number in range(500)]
    with transaction.atomic(), django_assert_num_queries(1):
        assert record_all(messages, consumer="billing") == messages


@pytest.mark.django_db
def test_an_inbox_takes_djangos_connection() -> None:
    with transaction.atomic():
        assert Inbox("billing").record(connection, received())


class InATestCase(TestCase):
    """Handlers can be tested in a TestCase: the test's own transaction does not count."""

    def test_a_message_takes_effect(self) -> None:
        assert handle(place) is Outcome.HANDLED
        assert Order.objects.count() == 1

    def test_record_wants_a_transaction_of_the_code_under_test(self) -> None:
        with pytest.raises(NotInTransaction, match="TestCase"):
            record(received(), consumer="billing")
