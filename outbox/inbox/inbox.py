"""The inbox: a message takes effect once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from outbox.errors import ConfigurationError, InvalidMessage
from outbox.inbox.received import id_problem
from outbox.names import Names, check_name
from outbox.transactions.opening import Statement, open_async_transaction, open_transaction
from outbox.transactions.sql_errors import Advice, raise_explained

if TYPE_CHECKING:
    from collections.abc import Mapping


ADVICE = Advice(
    migrate="Run `outbox-relay migrate --only inbox` on the consumer's database, or tell the Inbox "
    "where its tables are: schema=, table_prefix=",
    grant="The consumer's role needs INSERT on inbox_message",
)


class HasId(Protocol):
    """Whatever has the id of a message, above all a ReceivedMessage."""

    @property
    def id(self) -> str: ...


class Inbox:
    """Remembers, in the handler's own transaction, which messages have taken effect.

    `consumer` is a name: each consumer takes each message once, and several consumers share the
    table. An Inbox is cheap, holds no connection and may be shared between threads.
    `bind_arguments` says which database of a Session that has several, as for an Outbox.
    """

    def __init__(
        self,
        consumer: str,
        /,
        *,
        mode: Literal["id"] = "id",
        schema: str | None = None,
        table_prefix: str = "",
        bind_arguments: Mapping[str, object] | None = None,
    ) -> None:
        self.consumer = check_name("consumer", consumer)
        _check_mode(mode)
        self._insert = _insert(Names(schema, table_prefix)["inbox_message"])
        self._bind_arguments = bind_arguments

    def __repr__(self) -> str:
        return f"Inbox({self.consumer!r})"

    def record(self, transaction: object, message: HasId) -> bool:
        """Note that the message takes effect with this transaction; False if it already has.

        While another transaction that recorded the same id is open, this waits for how it ends.
        Takes the transactions that `Outbox.add` takes, and refuses what it refuses, with TypeError
        and NotInTransaction. Raises InvalidMessage for an id that cannot be stored, SchemaMissing.
        """
        parameters = self._parameters(message)
        opened = open_transaction(transaction, verb="record", bind_arguments=self._bind_arguments)
        try:
            return opened.execute(self._insert, parameters) == 1
        except Exception as error:
            raise_explained(error, ADVICE)
            raise

    async def record_async(self, transaction: object, message: HasId) -> bool:
        """Do what `record` does, with an asynchronous session or connection."""
        parameters = self._parameters(message)
        opened = await open_async_transaction(
            transaction, verb="record_async", bind_arguments=self._bind_arguments
        )
        try:
            return await opened.execute(self._insert, parameters) == 1
        except Exception as error:
            raise_explained(error, ADVICE)
            raise

    def _parameters(self, message: HasId) -> dict[str, object]:
        if problem := id_problem(getattr(message, "id", None)):
            raise InvalidMessage(
                f"the message's id {problem}; record() takes what from_kafka() returns, "
                "or any object whose `id` is the text that names the message"
            )
        return {"consumer": self.consumer, "message_id": message.id}


def _insert(table: str) -> Statement:
    # Without a conflict target, so that a role with INSERT alone may run it.
    sql = (
        f"insert into {table} (consumer, message_id) values (:consumer, :message_id) "
        "on conflict do nothing"
    )
    return Statement(postgresql=sql, sqlite=sql)


def _check_mode(mode: str) -> None:
    if mode == "position":
        raise ConfigurationError(
            "mode='position' is not available in this version; use mode='id', the default"
        )
    if mode != "id":
        raise ConfigurationError(f"mode {mode!r} is unknown; use mode='id', the default")
