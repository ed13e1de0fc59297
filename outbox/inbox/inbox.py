"""The inbox: a message takes effect once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from outbox.errors import ConfigurationError, InvalidMessage, OutboxError
from outbox.inbox.received import id_problem
from outbox.names import Names, check_name
from outbox.transactions.opening import Statement, open_async_transaction, open_transaction
from outbox.transactions.sql_errors import Advice, raise_explained

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from typing import Any


ADVICE = Advice(
    migrate="Run `outbox-relay migrate --only inbox` on the consumer's database, or tell the Inbox "
    "where its tables are: schema=, table_prefix=",
    grant="The consumer's role needs INSERT on inbox_message, and for record_all() also SELECT: "
    "grant insert, select (message_id) on inbox_message to …",
)


class HasId(Protocol):
    """Whatever has the id of a message, above all a ReceivedMessage."""

    @property
    def id(self) -> str: ...


M = TypeVar("M", bound=HasId)


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
        table = Names(schema, table_prefix)["inbox_message"]
        self._insert, self._insert_all = _insert(table), _insert_all(table)
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

    def record_all(self, transaction: object, messages: Iterable[M]) -> list[M]:
        """Note that these messages take effect with this transaction; return those that are new.

        They come back in the order given; of those with the same id, the first. One statement,
        whatever their number. The commit counts all of them as handled, so if the work for one
        fails, roll back the whole. Waits and raises as `record` does; if one id cannot be stored,
        nothing is recorded. Transactions that call it once each never wait for one another in a
        circle, whatever the order of their messages. On PostgreSQL it needs the right to SELECT
        message_id besides INSERT.
        """
        by_id = _by_id(messages, "record_all")
        opened = open_transaction(
            transaction, verb="record_all", bind_arguments=self._bind_arguments
        )
        if not by_id:
            return []
        try:
            rows = opened.rows(self._insert_all, self._all_parameters(by_id))
        except Exception as error:
            raise_explained(error, ADVICE)
            raise
        return _recorded(by_id, rows)

    async def record_all_async(self, transaction: object, messages: Iterable[M]) -> list[M]:
        """Do what `record_all` does, with an asynchronous session or connection."""
        by_id = _by_id(messages, "record_all_async")
        opened = await open_async_transaction(
            transaction, verb="record_all_async", bind_arguments=self._bind_arguments
        )
        if not by_id:
            return []
        try:
            rows = await opened.rows(self._insert_all, self._all_parameters(by_id))
        except Exception as error:
            raise_explained(error, ADVICE)
            raise
        return _recorded(by_id, rows)

    def _parameters(self, message: HasId) -> dict[str, object]:
        _check_id(message, "the message", "record")
        return {"consumer": self.consumer, "message_id": message.id}

    def _all_parameters(self, ids: Collection[str]) -> dict[str, object]:
        # JSON, since drivers agree on text and not on arrays.
        return {"consumer": self.consumer, "ids": json.dumps(list(ids), ensure_ascii=False)}


def _check_id(message: object, what: str, verb: str) -> None:
    if problem := id_problem(getattr(message, "id", None)):
        raise InvalidMessage(
            f"{what}'s id {problem}; {verb}() takes what from_kafka() returns, "
            "or any object whose `id` is the text that names the message"
        )


def _by_id(messages: Iterable[M], verb: str) -> dict[str, M]:
    if not hasattr(messages, "__iter__"):
        raise TypeError(
            f"{verb}() takes several messages, not {type(messages).__name__}; "
            f"for one message there is {verb.replace('_all', '')}()"
        )
    by_id: dict[str, M] = {}
    for index, message in enumerate(messages):
        _check_id(message, f"messages[{index}]", verb)
        by_id.setdefault(message.id, message)
    return by_id


def _recorded(by_id: Mapping[str, M], rows: Iterable[tuple[Any, ...]]) -> list[M]:
    """Return the messages whose ids the database gave back."""
    new = {_as_text(message_id) for (message_id,) in rows}
    if not new <= by_id.keys():
        # To take a new message for a known one would lose it.
        raise OutboxError(
            "the driver gave back ids that are not those of the messages: is a loader or a "
            "text_factory for text set on this connection? Roll the transaction back"
        )
    return [message for message_id, message in by_id.items() if message_id in new]


def _as_text(value: str | bytes) -> str:
    # Bytes: psycopg where the client's encoding is SQL_ASCII, and sqlite3 with text_factory.
    return value.decode() if isinstance(value, bytes) else value


def _insert(table: str) -> Statement:
    # Without a conflict target, so that a role with INSERT alone may run it.
    sql = (
        f"insert into {table} (consumer, message_id) values (:consumer, :message_id) "
        "on conflict do nothing"
    )
    return Statement(postgresql=sql, sqlite=sql)


def _insert_all(table: str) -> Statement:
    # Sorted, so that two transactions wait for each other's ids in the same order and not in a
    # circle. Only the rows that were inserted come back, and nothing else would tell which they
    # were: a SELECT, before or after, sees others' commits. RETURNING needs the right to SELECT.
    return Statement(
        postgresql=f"insert into {table} (consumer, message_id)"
        " select cast(:consumer as text), message_id"
        " from json_array_elements_text(cast(:ids as json)) as given (message_id)"
        ' order by message_id collate "C"'
        " on conflict do nothing returning message_id",
        # `where true`: else `on` would be read as the condition of a join.
        sqlite=f"insert into {table} (consumer, message_id)"
        " select :consumer, value from json_each(:ids) where true order by value"
        " on conflict do nothing returning message_id",
    )


def _check_mode(mode: str) -> None:
    if mode == "position":
        raise ConfigurationError(
            "mode='position' is not available in this version; use mode='id', the default"
        )
    if mode != "id":
        raise ConfigurationError(f"mode {mode!r} is unknown; use mode='id', the default")
