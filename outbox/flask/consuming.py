"""Transactions for a consumer, each in an app context of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar, overload

from outbox.flask.database import session_of

if TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy.orm import Session

    from outbox.inbox.handling import TransactionFactory

T = TypeVar("T")


@overload
def transactions(app: Flask, begin: None = None) -> TransactionFactory[Session]: ...


@overload
def transactions(app: Flask, begin: TransactionFactory[T]) -> TransactionFactory[T]: ...


def transactions(
    app: Flask, begin: TransactionFactory[T] | None = None
) -> TransactionFactory[Session] | TransactionFactory[T]:
    """Return the `transaction_factory` of an InboxConsumer whose handler runs in an app context.

    The context is pushed for each message and popped after it. The transaction is that of
    `db.session`, which is removed afterwards, or what `begin()` gives: `sessionmaker(engine).begin`
    for instance. Raises ConfigurationError without `begin` and without a `db`.
    """
    if begin is not None:
        return lambda: _within(app, begin)
    with app.app_context():
        session_of(app)  # so that what is missing shows here, and not with the first message
    return lambda: _session_of_context(app)


@contextmanager
def _within(app: Flask, begin: TransactionFactory[T]) -> Iterator[T]:
    with app.app_context(), begin() as transaction:
        yield transaction


@contextmanager
def _session_of_context(app: Flask) -> Iterator[Session]:
    # When the context ends its session is removed, and with it all that was not committed.
    with app.app_context():
        session = session_of(app)
        yield session
        session.commit()
