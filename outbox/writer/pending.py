"""A write that waits for its await, and what happens to one that is never awaited."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from outbox.errors import OutboxError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session, SessionTransaction

T = TypeVar("T")

_KEY = "outbox.never_awaited"


class PendingWrite(Generic[T]):
    """The awaitable of `add_async`: awaited once, it writes and gives the result.

    `what` names it in words ("add_async to topic 'orders'").
    """

    __slots__ = ("_awaited", "_what", "_write")

    def __init__(self, what: str, write: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._what = what
        self._write = write
        self._awaited = False

    def __await__(self) -> Generator[Any, None, T]:
        if self._awaited:
            raise RuntimeError(f"{self._what} was awaited already; each call writes once")
        self._awaited = True
        return (yield from self._write().__await__())

    def __del__(self) -> None:
        if not self._awaited:
            warnings.warn(
                f"{self._what} was never awaited; nothing was written", RuntimeWarning, stacklevel=2
            )


def guard_commit(session: AsyncSession, what: str) -> Callable[[], None]:
    """Make the session refuse to commit until the function that is returned has been called.

    Committing would lose the message without a word: the caller believes it is in the transaction.
    """
    sync_session = session.sync_session
    pending = sync_session.info.get(_KEY)
    if pending is None:
        pending = sync_session.info[_KEY] = {}
        _listen(sync_session)
    token = object()
    pending[token] = what
    return lambda: pending.pop(token, None)


def _listen(session: Session) -> None:
    # On this one session, not on the class: other sessions are none of our business. The listeners
    # go when the session goes.
    from sqlalchemy import event

    event.listen(session, "before_commit", _refuse_commit)
    event.listen(session, "after_transaction_end", _forget)


def _refuse_commit(session: Session) -> None:
    pending = session.info[_KEY]
    if pending:
        raise OutboxError(
            f"not committed, since {' and '.join(sorted(set(pending.values())))} was never "
            "awaited: the message would be missing. Write `await` before it, and roll back now"
        )


def _forget(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info[_KEY].clear()
