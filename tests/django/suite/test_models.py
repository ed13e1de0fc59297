"""The models read what is in the tables, and write nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connections, transaction
from django.test import TransactionTestCase, override_settings
from django.utils import timezone

from outbox.django import add
from outbox.django.inbox import record
from outbox.django.models import (
    InboxMessage,
    OutboxAudit,
    OutboxCursor,
    OutboxHeld,
    OutboxMessage,
)
from outbox.django.settings import current
from outbox.errors import OutboxError
from outbox.inbox import ReceivedMessage

pytestmark = pytest.mark.django_db


def received(message_id: str = "m-1") -> ReceivedMessage:
    return ReceivedMessage(message_id, "orders", 0, 0, None, b"{}", (), None, None)


def test_messages_are_found_by_id_and_by_time() -> None:
    with transaction.atomic():
        message = add("orders", {})

    hour = timedelta(hours=1)
    now = datetime.now(UTC)
    assert OutboxMessage.objects.filter(message_id=message.id).count() == 1
    assert OutboxMessage.objects.filter(message_id=str(message.id)).count() == 1
    assert OutboxMessage.objects.filter(message_id__in=[message.id]).count() == 1
    assert OutboxMessage.objects.filter(created_at__range=(now - hour, now + hour)).count() == 1
    assert OutboxMessage.objects.filter(created_at__gt=now + hour).count() == 0


def test_without_time_zones_times_are_naive_and_can_be_compared() -> None:
    with override_settings(USE_TZ=False), transaction.atomic():
        add("orders", {})
        now = timezone.now()

        recent = OutboxMessage.objects.filter(created_at__gt=now - timedelta(minutes=1)).get()

        assert abs(recent.created_at - now) < timedelta(minutes=1)


def test_cursors_can_be_read() -> None:
    cursor = OutboxCursor.objects.get(relay="default")

    assert (cursor.lane, cursor.owner, cursor.lease_until) == ("default", None, None)
    assert abs(cursor.moved_at - datetime.now(UTC)) < timedelta(hours=1)


def test_what_the_inbox_remembers_can_be_read() -> None:
    with transaction.atomic():
        record(received(), consumer="billing")

    found = InboxMessage.objects.get(consumer="billing")
    assert found.message_id == "m-1"
    assert found.pk == ("billing", "m-1")
    assert abs(found.received_at - datetime.now(UTC)) < timedelta(hours=1)


def test_what_is_held_and_what_was_done_can_be_read() -> None:
    held, audit = current().names["outbox_held"], current().names["outbox_audit"]
    action = "018f3f1e-0000-7000-8000-000000000001"
    columns = "relay, lane, seq, created_at, id, topic, state, blocks, next_attempt_at"
    values = "'default', 'default', 7, {now}, '{id}', 'orders', 'retrying', {no}, {now}"
    postgresql = connections["default"].vendor == "postgresql"
    now, no = ("now()", "false") if postgresql else ("1e9", "0")
    with connections["default"].cursor() as cursor:
        cursor.execute(
            f"insert into {held} ({columns}) values ({values.format(now=now, id=action, no=no)})"
        )
        cursor.execute(
            f"insert into {audit} (action, actor, source, command, what, messages)"
            f""" values ('{action}', 'ada', 'host', 'held discard', '{{"topic": "orders"}}', 3)"""
        )

    message, done = OutboxHeld.objects.get(state="retrying"), OutboxAudit.objects.get()

    assert (message.pk, str(message.message_id)) == (("default", 7), action)
    assert message.next_attempt_at.tzinfo is not None
    assert (done.what, done.messages, str(done.action)) == ({"topic": "orders"}, 3, action)


@pytest.mark.parametrize(
    "change",
    [
        lambda message: message.save(),
        lambda message: message.delete(),
        lambda message: OutboxMessage.objects.create(seq=2),
        lambda message: OutboxMessage.objects.bulk_create([message]),
        lambda message: OutboxMessage.objects.bulk_update([message], ["topic"]),
        lambda message: OutboxMessage.objects.update(topic="other"),
        lambda message: OutboxMessage.objects.all().delete(),
        lambda message: OutboxMessage.objects.update_or_create(seq=message.seq),
        lambda message: OutboxMessage.objects.get_or_create(seq=2**40),
        lambda message: asyncio.run(message.asave()),
    ],
)
def test_the_orm_changes_nothing(change: Callable[[OutboxMessage], object]) -> None:
    with transaction.atomic():
        add("orders", {})
    message = OutboxMessage.objects.get()

    with pytest.raises(OutboxError, match="OutboxMessage is read-only"):
        change(message)

    assert OutboxMessage.objects.get().topic == "orders"


class BetweenTransactionTestCases(TransactionTestCase):
    """Each test of this kind is followed by `flush`."""

    databases = frozenset({"default", "other"})

    def _is_alone(self) -> None:
        with transaction.atomic():
            add("orders", {})
            record(received(), consumer="billing")
        with transaction.atomic(using="other"):
            add("orders", {}, using="other")
        assert OutboxMessage.objects.count() == 1
        assert OutboxMessage.objects.using("other").count() == 1
        assert InboxMessage.objects.count() == 1
        assert OutboxCursor.objects.count() == 1

    def test_what_one_wrote_is_gone(self) -> None:
        self._is_alone()

    def test_for_the_next(self) -> None:
        self._is_alone()


@pytest.mark.django_db(transaction=True)
def test_outside_tests_the_signal_of_flush_empties_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.core import mail
    from django.core.management.sql import emit_post_migrate_signal

    with transaction.atomic():
        add("orders", {})

    with monkeypatch.context() as production:
        production.delattr(mail, "outbox")
        emit_post_migrate_signal(0, False, "default")

    assert OutboxMessage.objects.count() == 1
    connections.close_all()
