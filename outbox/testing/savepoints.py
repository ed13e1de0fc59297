"""Transactions of a handler within the transaction of a test."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from outbox.inbox.handling import TransactionFactory
from outbox.transactions.autocommit import IDLE
from outbox.transactions.opening import kind_of
from outbox.transactions.refusals import refusal

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")


def savepoints(transaction: T) -> TransactionFactory[T]:
    """Return a transaction factory whose transactions are savepoints in the test's own.

    For `deliver` in a test that rolls back at its end: what a handler does is kept or undone as it
    would be by a commit or a rollback, and gone after the test. Takes what `Inbox.record` takes,
    and begins where no transaction is open yet.
    """
    begin = _SAVEPOINTS.get(kind_of(transaction))
    if begin is None:
        raise TypeError(refusal(transaction, "savepoints", wanted="sync"))
    return partial(_within, transaction, begin)


@contextmanager
def _within(transaction: T, begin: Callable[[Any], AbstractContextManager[object]]) -> Iterator[T]:
    with begin(transaction):
        yield transaction


def _of_session(session: Any) -> AbstractContextManager[object]:
    _begin_in_sqlite(session.connection())
    block: AbstractContextManager[object] = session.begin_nested()
    return block


def _of_connection(connection: Connection) -> AbstractContextManager[object]:
    _begin_in_sqlite(connection)
    return connection.begin_nested()


def _begin_in_sqlite(connection: Connection) -> None:
    """Make the driver begin, which leaves that to the first insert: a savepoint outside of a
    transaction is one, and its end commits."""
    driver: object = connection.connection.dbapi_connection
    if isinstance(driver, sqlite3.Connection) and not driver.in_transaction:
        connection.exec_driver_sql("begin")


def _of_psycopg(connection: Any) -> AbstractContextManager[object]:
    if connection.pgconn.transaction_status == IDLE:
        connection.execute("begin")  # else the block below would be the transaction, and commit
    block: AbstractContextManager[object] = connection.transaction()
    return block


@contextmanager
def _of_sqlite(connection: sqlite3.Connection) -> Iterator[None]:
    if not connection.in_transaction:
        connection.execute("begin")
    connection.execute("savepoint outbox_testing")
    try:
        yield
    except BaseException:
        connection.execute("rollback to outbox_testing")
        raise
    finally:
        connection.execute("release outbox_testing")


def _of_django(connection: Any) -> AbstractContextManager[object]:
    from django.db.transaction import atomic

    block: AbstractContextManager[object] = atomic(using=connection.alias)
    return block


_SAVEPOINTS: dict[str, Callable[[Any], AbstractContextManager[object]]] = {
    "sqlalchemy.orm.Session": _of_session,
    "sqlalchemy.orm.scoped_session": _of_session,
    "sqlalchemy.Connection": _of_connection,
    "psycopg.Connection": _of_psycopg,
    "sqlite3.Connection": _of_sqlite,
    "django.db.backends.base.base.BaseDatabaseWrapper": _of_django,
    "django.utils.connection.ConnectionProxy": _of_django,
}
