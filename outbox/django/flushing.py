"""Let `flush` within tests empty our tables too, as TransactionTestCase expects of it."""

from __future__ import annotations

from typing import Any

from django.core import mail
from django.db import connections
from django.db.models.signals import post_migrate

from outbox.django.databases import has_tables
from outbox.django.plain import PlainConnection
from outbox.django.settings import current
from outbox.django.state import read_versions
from outbox.names import RELATIONS

#: What a test leaves behind. Cursors stay: they stand behind the last message, and a relay name
#: that were gone would be unknown.
_EMPTIED = (
    "outbox_message",
    "outbox_scheduled",
    "outbox_held",
    "outbox_pause",
    "outbox_audit",
    "inbox_message",
    "inbox_position",
    "inbox_dead",
)


def register() -> None:
    """Follow `flush`."""
    post_migrate.connect(_after_flush, dispatch_uid=__name__)


def _after_flush(*, app_config: Any, using: str, **given: Any) -> None:
    """Empty the tables when this is `flush` in a test database.

    `flush` leaves out tables whose models Django does not manage, and ours must keep their cursors.
    It has no signal of its own: this one comes with a plan from `migrate` and without one from
    `flush`. Outside tests nothing is touched, whoever sends the signal.
    """
    from outbox.django.apps import OutboxRelayConfig

    is_ours = isinstance(app_config, OutboxRelayConfig)
    if not is_ours or "plan" in given or not _in_tests() or not has_tables(using):
        return
    if all(read_versions(using).values()):
        _empty(using)


def _in_tests() -> bool:
    # Django's documented mark of a test environment, which every runner sets up.
    return hasattr(mail, "outbox")


def _empty(using: str) -> None:
    names = current().names
    connection = PlainConnection(connections[using])
    tables = [names[table] for table in _EMPTIED if table in RELATIONS]
    if connections[using].vendor == "postgresql":
        connection.execute(f"truncate {', '.join(tables)}")
        return
    for table in tables:
        connection.execute(f"delete from {table}")
