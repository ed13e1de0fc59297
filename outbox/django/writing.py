"""`add`: write a message in the transaction that is open on one of Django's connections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from outbox.django.databases import connection
from outbox.django.settings import writer
from outbox.errors import SchemaMissing, SchemaTooOld
from outbox.headers import HeadersInput
from outbox.message import Message, Ordering
from outbox.topic.topic import Topic

P = TypeVar("P")


def add(
    topic: str | Topic[P],
    payload: P | None,
    *,
    using: str = "default",
    key: str | int | UUID | None = None,
    type: str | None = None,
    headers: HeadersInput | None = None,
    id: UUID | str | None = None,
    lane: str | None = None,
    content_type: str | None = None,
    deliver_at: datetime | None = None,
    delay: timedelta | None = None,
    wait_for: str | None = None,
    expires_at: datetime | None = None,
    ordering: Ordering | None = None,
) -> Message:
    """Write a message that is sent if, and only if, the open transaction commits.

    Call it inside `transaction.atomic(using=…)` on the database of the change that the message
    tells of (ATOMIC_REQUESTS and `set_autocommit(False)` count too). Nothing waits for
    `on_commit`: the message is a row of that transaction, and is there when the change is.
    `topic` is a name, or a Topic, whose payload has a type.

    It is synchronous, as Django's transactions are; in asynchronous code put it together with the
    change into one function for `sync_to_async`. Called in an event loop it raises Django's
    SynchronousOnlyOperation.

    Raises NotInTransaction (in a TestCase, too, where only the test's own transaction is open),
    InvalidMessage, ConfigurationError, SchemaMissing, or what the database says, and then has
    written nothing. In a transaction that is already broken it raises Django's
    TransactionManagementError.
    """
    with _explained(using):
        return writer().add(
            connection(using),
            topic,
            payload,
            key=key,
            type=type,
            headers=headers,
            id=id,
            lane=lane,
            content_type=content_type,
            deliver_at=deliver_at,
            delay=delay,
            wait_for=wait_for,
            expires_at=expires_at,
            ordering=ordering,
        )


def add_all(messages: Iterable[Message], *, using: str = "default") -> None:
    """Write several messages in their order; on PostgreSQL in one round trip.

    All of them are checked before the first is written. Raises what `add` raises.
    """
    with _explained(using):
        writer().add_all(connection(using), messages)


def cancel(id: UUID | str, *, using: str = "default") -> bool:
    """Take back a message that waits for its time or a condition, if the transaction commits.

    Returns whether it was still there. Raises what `add` raises.
    """
    with _explained(using):
        return writer().cancel(connection(using), id)


def release(*conditions: str, using: str = "default") -> int:
    """Let the messages that wait for these conditions go, if the transaction commits.

    Returns how many that were. Raises what `add` raises.
    """
    with _explained(using):
        return writer().release(connection(using), *conditions)


@contextmanager
def _explained(using: str) -> Iterator[None]:
    """Name Django's command instead of ours where the tables are missing or old."""
    try:
        yield
    except (SchemaMissing, SchemaTooOld) as error:
        cause = error.__cause__
        first_line = str(cause).strip().partition("\n")[0]
        where = "" if using == "default" else f" --database={using}"
        raise type(error)(
            f"{first_line}; nothing was written. Run `manage.py migrate outbox_relay{where}` "
            f"(or `manage.py outbox_migrate{where}`, should Django take that for done)"
        ) from cause
