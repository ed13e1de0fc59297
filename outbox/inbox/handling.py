"""One message in one transaction: recorded, handled, committed."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from outbox.errors import ConfigurationError, OutboxError
from outbox.inbox.received import ReceivedMessage
from outbox.transactions.autocommit import IDLE
from outbox.transactions.opening import kind_of

if TYPE_CHECKING:
    from outbox.inbox.inbox import Inbox

T = TypeVar("T")
TransactionFactory = Callable[[], AbstractContextManager[T]]
Handler = Callable[[T, ReceivedMessage], None]


_FACTORIES = (
    "Pass for instance sessionmaker(engine).begin, engine.begin, or the connection of a psycopg "
    "pool"
)


class Outcome(enum.Enum):
    """What became of a message that an InboxConsumer turned to."""

    HANDLED = "handled"  #: Its effects are committed.
    DUPLICATE = "duplicate"  #: It had taken effect before and was skipped.
    FAILED = "failed"  #: Nothing of it was kept; it will be tried again.


class Handling(Generic[T]):
    """Runs a handler so that its effects and the inbox row are committed together."""

    def __init__(self, inbox: Inbox, transaction_factory: TransactionFactory[T]) -> None:
        check_factory(transaction_factory)
        self._inbox = inbox
        self._begin = transaction_factory
        self._known_to_commit = False

    def handle(self, handler: Handler[T], message: ReceivedMessage) -> Outcome:
        """Handle the message unless it has taken effect before.

        When this returns, the database has committed. When it raises, nothing was kept (but for
        a connection that broke in the commit itself: then the next attempt finds out).
        """
        outcome: Outcome | None = None
        with self._transaction() as transaction:
            if self._inbox.record(transaction, message):
                _call(handler, transaction, message)
                outcome = Outcome.HANDLED
            else:
                outcome = Outcome.DUPLICATE
        if outcome is None:
            raise OutboxError(
                "the handler raised, and the context manager that transaction_factory returned "
                "kept the exception to itself: what the handler did was not committed"
            )
        if outcome is Outcome.HANDLED and not self._known_to_commit:
            self._check_committed(message)
        return outcome

    def _transaction(self) -> AbstractContextManager[T]:
        begun = self._begin()
        if not hasattr(begun, "__exit__"):
            raise ConfigurationError(
                f"transaction_factory() returned {type(begun).__name__}, which is no context "
                f"manager. {_FACTORIES}"
            )
        return begun

    def _check_committed(self, message: ReceivedMessage) -> None:
        # A factory such as `lambda: Session(engine)` looks right, and rolls everything back.
        with self._transaction() as transaction:
            if self._inbox.record(transaction, message):
                raise ConfigurationError(
                    "the context manager that transaction_factory returns does not commit: the "
                    f"first message was handled, and left nothing in the database. {_FACTORIES}"
                )
        self._known_to_commit = True


def check_factory(factory: object) -> None:
    """Raise ConfigurationError for what cannot be called."""
    if not callable(factory):
        raise ConfigurationError(
            f"transaction_factory must be a function, not {type(factory).__name__}. {_FACTORIES}"
        )


def check_handler(handler: object) -> None:
    """Raise TypeError for what cannot be called, or would only return a coroutine."""
    if not callable(handler):
        raise TypeError(f"handler must be a function, not {type(handler).__name__}")
    if inspect.iscoroutinefunction(handler):
        raise TypeError(
            "handler is a coroutine function; InboxConsumer calls plain functions only. "
            "With asyncio, poll Kafka yourself and use Inbox.record_async"
        )
    try:
        inspect.signature(handler).bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"handler is called with two arguments, the transaction and the message: {error}"
        ) from error
    except ValueError:
        return  # written in C: its arguments are not known before it is called


def _call(handler: Handler[T], transaction: T, message: ReceivedMessage) -> None:
    answer: object = handler(transaction, message)  # type: ignore[func-returns-value]  # is checked
    if answer is not None and inspect.iscoroutine(answer):
        answer.close()
        raise ConfigurationError(
            "the handler returned a coroutine, which nothing awaits; pass a plain function"
        )
    if _has_ended(transaction):
        raise OutboxError(
            "the handler ended the transaction that it was given; it must neither commit nor roll "
            "back (but may raise, or use savepoints), since the inbox's row belongs to the same one"
        )


def _has_ended(transaction: Any) -> bool:
    kind = kind_of(transaction)
    if kind.startswith("psycopg."):
        return bool(transaction.pgconn.transaction_status == IDLE)
    if kind.startswith("sqlite3."):
        return not transaction.in_transaction
    if kind.startswith("django."):
        return not transaction.in_atomic_block
    if kind.endswith(".scoped_session"):  # which has no such method itself
        transaction = transaction()
    return not transaction.in_transaction()
