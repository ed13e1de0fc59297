"""The consumer's side with Django: the inbox row and the handler's changes share a transaction.

from outbox.django.inbox import Inbox, transactions
from outbox.inbox import InboxConsumer

with InboxConsumer(
    Inbox("billing"),
    transaction_factory=transactions(),
    kafka={"bootstrap.servers": "localhost:9092"},
    topics=["orders"],
) as consumer:
    consumer.run(write_bill)    # write_bill(connection, message): use the ORM as always
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from django.db import connections, transaction

from outbox.django.databases import connection
from outbox.django.settings import current
from outbox.inbox.inbox import Inbox as AnyInbox

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from outbox.inbox.inbox import HasId, M


class Inbox(AnyInbox):
    """An Inbox whose tables are where OUTBOX in Django's settings says."""

    def __init__(self, consumer: str, /) -> None:
        names = current().names
        super().__init__(consumer, schema=names.schema, table_prefix=names.prefix)


def record(message: HasId, *, consumer: str, using: str = "default") -> bool:
    """Note that the message takes effect with the open transaction; False if it already has.

    For code with a loop of its own, inside `transaction.atomic(using=…)`. Raises what
    `Inbox.record` raises.
    """
    return Inbox(consumer).record(connection(using), message)


def record_all(messages: Iterable[M], *, consumer: str, using: str = "default") -> list[M]:
    """Do so for several messages with one statement; return those that are new.

    What comes back and what is raised: see `Inbox.record_all`.
    """
    return Inbox(consumer).record_all(connection(using), messages)


def transactions(
    using: str = "default",
) -> Callable[[], AbstractContextManager[BaseDatabaseWrapper]]:
    """Return what InboxConsumer takes as `transaction_factory`.

    Each transaction is an `atomic` block that commits at its end and cannot be nested; the handler
    gets the connection. Between messages connections are closed that broke or are older than
    CONN_MAX_AGE, as Django does between requests.
    """

    @contextmanager
    def begin() -> Iterator[BaseDatabaseWrapper]:
        _close_old_connections()
        try:
            with transaction.atomic(using=using, durable=True):
                yield connection(using)
        finally:
            _close_old_connections()

    return begin


def _close_old_connections() -> None:
    # Django's own function of this name would close the connection that a TestCase holds open.
    for opened in connections.all(initialized_only=True):
        if not opened.in_atomic_block:
            opened.close_if_unusable_or_obsolete()
