"""`add`: in the transaction that is open on one of Django's connections."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.db import connection, connections, transaction
from django.test import TestCase, override_settings
from django.test.utils import CaptureQueriesContext

from outbox import Message, NotInTransaction, Outbox, Topic
from outbox.django import add, add_all, cancel, release
from outbox.django.models import OutboxMessage, OutboxScheduled
from outbox.django.settings import current
from outbox.errors import (
    ConfigurationError,
    MessageTooLarge,
    PayloadNotSerializable,
    SchemaMissing,
    UnknownLane,
)
from tests.django.suite.routing import Router
from tests.django.suite.shop.models import Order

committing = pytest.mark.django_db(transaction=True, databases=["default", "other"])


def topics(using: str = "default") -> list[str]:
    found = OutboxMessage.objects.using(using).order_by("seq").values_list("topic", flat=True)
    return list(found)


@committing
def test_a_message_is_committed_with_the_change() -> None:
    with transaction.atomic():
        order = Order.objects.create(customer="ada")
        message = add("orders", {"order": order.pk}, key=order.pk, type="order.placed")

    written = OutboxMessage.objects.get()
    assert (written.message_id, written.topic, written.key) == (message.id, "orders", str(order.pk))
    assert bytes(written.payload or b"") == b'{"order":%d}' % order.pk


@committing
def test_a_rollback_drops_the_message() -> None:
    with suppress(ZeroDivisionError), transaction.atomic():
        add("orders", {})
        raise ZeroDivisionError

    assert topics() == []


@committing
def test_the_rollback_of_an_inner_block_drops_what_it_added_and_no_more() -> None:
    with transaction.atomic():
        add("kept", {})
        with suppress(ZeroDivisionError), transaction.atomic():
            add("dropped", {})
            raise ZeroDivisionError

    assert topics() == ["kept"]


@committing
def test_outside_a_transaction_nothing_is_written_and_the_error_says_what_to_do() -> None:
    with pytest.raises(NotInTransaction, match=r"`with transaction\.atomic\(\):`"):
        add("orders", {})

    assert topics() == []


@committing
def test_for_another_database_the_error_names_it() -> None:
    with (
        transaction.atomic(),
        pytest.raises(NotInTransaction, match=r"transaction\.atomic\(using='other'\)"),
    ):
        add("orders", {}, using="other")


@committing
def test_manual_transaction_management_is_a_transaction() -> None:
    transaction.set_autocommit(False)
    try:
        add("dropped", {})
        transaction.rollback()
        add("kept", {})
        transaction.commit()
    finally:
        transaction.set_autocommit(True)

    assert topics() == ["kept"]


@committing
def test_a_message_goes_to_the_database_that_is_named() -> None:
    with transaction.atomic(using="other"):
        add("orders", {}, using="other")

    assert (topics("default"), topics("other")) == ([], ["orders"])


@committing
def test_a_broken_transaction_raises_what_django_raises_and_keeps_nothing() -> None:
    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(transaction.TransactionManagementError):
            add("orders", {})

    assert topics() == []


@committing
def test_bad_input_writes_nothing_and_leaves_the_transaction_usable() -> None:
    with transaction.atomic():
        with pytest.raises(PayloadNotSerializable, match="price"):
            add("orders", {"price": object()})
        add("kept", {})

    assert topics() == ["kept"]


@pytest.mark.django_db
def test_every_kind_of_value_arrives_as_it_was() -> None:
    payload = bytes(range(256))
    with transaction.atomic():
        add(
            "orders",
            payload,
            key="100 % :key 'q' \\",
            type="order.placed",
            headers=[("a", "1 %s"), ("a", "é")],
            id="01890a5d-ac96-774b-bcce-b302099a8057",
            content_type="application/x",
            lane="bulk",
        )
        add("orders", None, key="gone")

    tombstone, written = OutboxMessage.objects.all()
    assert (tombstone.payload, tombstone.key) == (None, "gone")
    assert bytes(written.payload or b"") == payload
    assert written.key == "100 % :key 'q' \\"
    assert written.headers == [["a", "1 %s"], ["a", "é"]]
    assert written.message_id == UUID("01890a5d-ac96-774b-bcce-b302099a8057")
    assert (written.type, written.content_type, written.lane) == (
        *("order.placed", "application/x", "bulk"),
    )
    assert abs(written.created_at - datetime.now(UTC)).total_seconds() < 60


@pytest.mark.django_db
def test_several_messages_keep_their_order_and_cost_one_statement_on_postgresql() -> None:
    messages = [Message("orders", number, key=number) for number in range(50)]
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        add_all(messages)

    assert list(OutboxMessage.objects.order_by("seq").values_list("message_id", flat=True)) == [
        message.id for message in messages
    ]
    assert len(queries) == 1 or connection.vendor == "sqlite"


@pytest.mark.django_db
def test_strict_ordering_takes_its_lock_in_the_same_transaction() -> None:
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        add("orders", {}, key="a", ordering="strict")

    locks = [query for query in queries if "pg_advisory_xact_lock" in query["sql"]]
    assert len(locks) == (1 if connection.vendor == "postgresql" else 0)


@pytest.mark.django_db
def test_a_typed_topic_is_a_topic() -> None:
    orders: Topic[dict[str, int]] = Topic("orders", dict[str, int])
    with transaction.atomic():
        add(orders, {"order": 1})

    assert topics() == ["orders"]


@pytest.mark.django_db
def test_execute_wrappers_see_the_statement() -> None:
    seen: list[str] = []

    def note(execute, sql, params, many, context):  # type: ignore[no-untyped-def]  # Django's
        seen.append(sql)
        return execute(sql, params, many, context)

    with transaction.atomic(), connection.execute_wrapper(note):
        add("orders", {})

    assert [sql for sql in seen if sql.startswith("insert into")]


@pytest.mark.django_db
@pytest.mark.parametrize("given", [connection, connections["default"]])
def test_an_outbox_of_ones_own_takes_djangos_connection(given: object) -> None:
    names = current().names
    events = Outbox(schema=names.schema, table_prefix=names.prefix)
    with transaction.atomic():
        events.add(given, "orders", {})

    assert topics() == ["orders"]


@pytest.mark.django_db
def test_an_atomic_block_in_place_of_the_connection_is_refused_with_what_to_pass() -> None:
    with transaction.atomic() as _, pytest.raises(TypeError, match=r"connections\[alias\]"):
        Outbox().add(transaction.atomic(), "orders", {})


@committing
def test_in_an_event_loop_it_raises_what_the_orm_raises() -> None:
    async def place() -> None:
        add("orders", {})

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(place())


@committing
def test_in_asynchronous_code_change_and_message_go_into_one_function() -> None:
    def place() -> None:
        with transaction.atomic():
            Order.objects.create(customer="ada")
            add("orders", {})
        connections.close_all()  # the thread's own

    asyncio.run(sync_to_async(place, thread_sensitive=False)())

    assert topics() == ["orders"]


class Shouting:
    """A serializer of a project's own."""

    content_type = "text/loud"

    def serialize(self, payload: object) -> bytes:
        return str(payload).upper().encode()


@pytest.mark.django_db
def test_the_settings_say_how_messages_are_written() -> None:
    own = {"SERIALIZER": f"{__name__}.Shouting", "MAX_MESSAGE_BYTES": 20, "LANES": ["bulk"]}
    with override_settings(OUTBOX={**settings.OUTBOX, **own}), transaction.atomic():
        add("orders", "hello", lane="bulk")
        with pytest.raises(MessageTooLarge):
            add("orders", "x" * 30)
        with pytest.raises(UnknownLane):
            add("orders", "hello", lane="blk")

    written = OutboxMessage.objects.get()
    assert (bytes(written.payload or b""), written.content_type) == (b"HELLO", "text/loud")


# Which database


@pytest.mark.django_db
def test_an_unknown_alias_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"'othr'.*'default', 'other', 'bare'"):
        add("orders", {}, using="othr")


@pytest.mark.django_db
def test_an_alias_that_the_settings_leave_out_is_refused() -> None:
    with (
        override_settings(OUTBOX={"DATABASES": ["other"]}),
        pytest.raises(ConfigurationError, match=r"OUTBOX\['DATABASES'\] names 'other'"),
    ):
        add("orders", {})


@pytest.mark.django_db
def test_an_alias_that_the_routers_keep_free_of_our_tables_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="routers allow no migration"):
        add("orders", {}, using="bare")


@pytest.mark.django_db
def test_a_router_with_another_opinion_is_never_overruled_by_a_guess() -> None:
    Router.writes_to = "other"

    with pytest.raises(ConfigurationError, match="Say using='other'"):
        add("orders", {})


@pytest.mark.django_db(databases=["default", "other"])
def test_the_alias_that_the_router_wants_is_taken() -> None:
    Router.writes_to = "other"

    with transaction.atomic(using="other"):
        add("orders", {}, using="other")

    assert topics("other") == ["orders"]


@pytest.mark.django_db
def test_missing_tables_are_explained_with_djangos_own_command() -> None:
    table = current().names["outbox_message"]
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(f"alter table {table} rename to elsewhere")
        with pytest.raises(SchemaMissing, match=r"manage\.py migrate outbox_relay"):
            add("orders", {})
        transaction.set_rollback(True)


# In tests


class InATestCase(TestCase):
    """A TestCase wraps each test, and the class, in a transaction that production has not."""

    @classmethod
    def setUpTestData(cls) -> None:
        try:
            add("orders", {})
        except NotInTransaction as error:
            cls.refusal = str(error)

    def test_the_transaction_of_the_class_is_none_of_the_applications(self) -> None:
        assert "TestCase" in self.refusal

    def test_the_transaction_of_the_test_is_none_of_the_applications(self) -> None:
        with pytest.raises(NotInTransaction, match=r"only the transaction that TestCase"):
            add("orders", {})

        assert topics() == []

    def test_a_block_of_the_code_under_test_is_one_and_the_message_can_be_seen(self) -> None:
        with transaction.atomic():
            add("orders", {})

        assert topics() == ["orders"]

    def test_a_durable_block_is_one(self) -> None:
        with transaction.atomic(durable=True):
            add("orders", {})

        assert topics() == ["orders"]

    def test_nothing_of_another_test_is_left(self) -> None:
        assert topics() == []


@pytest.mark.django_db
def test_what_waits_is_beside_the_log_and_can_be_cancelled_and_released() -> None:
    with transaction.atomic():
        later = add("orders", {}, key="a", delay=timedelta(hours=1), headers={"h": "1"})
        add("orders", {}, key="b", wait_for="payment-1")
        waits = OutboxScheduled.objects.get(wait_for="payment-1")

    assert topics() == []
    row = OutboxScheduled.objects.get(message_id=later.id)
    assert timedelta(minutes=59) < row.due_at - datetime.now(UTC) <= timedelta(hours=1)
    assert (row.key, row.headers) == ("a", {"h": "1"})
    assert waits.due_at is None

    with transaction.atomic():
        assert cancel(later.id) is True
        assert cancel(later.id) is False
        assert release("payment-1", "payment-2") == 1

    waits = OutboxScheduled.objects.get()
    assert (waits.key, waits.wait_for) == ("b", None)
    assert abs(waits.due_at - datetime.now(UTC)).total_seconds() < 60


@committing
def test_cancelling_and_releasing_need_a_transaction() -> None:
    for act in (lambda: cancel(UUID(int=1)), lambda: release("payment-1")):
        with pytest.raises(NotInTransaction):
            act()
