"""A connection that speaks the errors of this library."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import errors as pg

from outbox.database_faults import CONNECTION_LOST, explained, fault_of_sqlstate
from outbox.errors import DatabaseUnavailable, OutboxError
from outbox.store.postgresql.patience import ImpatientConnection

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from outbox.store.postgresql.scheduling import Looked

_AWAY = (psycopg.OperationalError, psycopg.InterfaceError)

#: What a transaction that locks the cursor begins with. A relay that is frozen in one, or whose
#: machine lost its power, would keep its successor out for as long as the connection seems to live.
ABANDONED = "set local idle_in_transaction_session_timeout = '5s'"

# The planner must use the index on seq (fresh) or on xid (late) whatever the statistics say, also
# when they were taken while the log was empty. No JIT: the price of what is switched off, and must
# be used all the same, would make the server compile a query of one row for 70 ms.
_BY_INDEX = {
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
}


def _set_local(settings: Mapping[str, str]) -> str:
    return "; ".join(f"set local {name} = {value}" for name, value in settings.items())


#: Makes a transaction read by index only.
BY_INDEX = _set_local(_BY_INDEX)

#: The same where statements are prepared: they are planned once, for any values.
_PREPARED = {"plan_cache_mode": "force_generic_plan"}
PREPARED_BY_INDEX = _set_local({**_BY_INDEX, **_PREPARED})

#: A prepared statement is gone, or was there already: the server process is not always the same.
_NOT_PREPARED = ("26000", "42P05")

#: What finds, in the server, that a prepared statement does not fit its table any more.
_REVALIDATION = "RevalidateCachedQuery"

#: Four or five for each stream that is served; with fewer, psycopg would drop each before its next
#: turn came.
_MOST_PREPARED = 500

_MOMENT, _MOMENT_QUERY = "outbox_moment", "select pg_current_snapshot()"


def _as_query(settings: Mapping[str, str]) -> str:
    return "select " + ", ".join(
        f"set_config('{name}', '{value}', true)" for name, value in settings.items()
    )


#: The same as one statement, for where several in one are not possible.
BY_INDEX_AS_QUERY = _as_query(_BY_INDEX)
PREPARED_BY_INDEX_AS_QUERY = _as_query({**_BY_INDEX, **_PREPARED})


class Preparation:
    """Whether statements may be prepared, as far as the connections before this one have shown.

    A pooler in transaction mode hands each transaction to any process, which may not know them.
    """

    def __init__(self) -> None:
        self._works = True

    def is_possible(self, connection: ImpatientConnection) -> bool:
        """Return whether the connection leads to one process: poolers tell an id of their own.

        Also lets psycopg prepare what it is told to, and nothing else.
        """
        (answer,) = connection.results_of("select pg_backend_pid()")
        possible = self._works and text(answer) == str(connection.info.backend_pid)
        connection.prepare_threshold = sys.maxsize if possible else None
        connection.prepared_max = _MOST_PREPARED
        return possible

    def is_at_fault(self, error: psycopg.Error) -> bool:
        """Return whether a statement failed because it was prepared, and on another connection may
        not; prepare nothing there, unless it was the table that has changed."""
        self._works = self._works and error.sqlstate not in _NOT_PREPARED
        return not self._works or error.diag.source_function == _REVALIDATION


class Session:
    """One PostgreSQL connection, in autocommit; transactions are opened by name."""

    def __init__(self, connection: ImpatientConnection) -> None:
        self.connection = connection
        #: Whether statements are to be prepared.
        self.prepares = False
        self._preparation = Preparation()
        self._defined: set[str] = set()
        #: The text of the snapshot that was read last, by whoever looked for something new.
        self.latest_snapshot = ""
        #: What the last look at the schedule found.
        self.looked: Looked | None = None
        self._warnings: list[str] = []
        self._sent = ExitStack()
        connection.add_notice_handler(self._notice)

    def _notice(self, notice: pg.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warnings.append(notice.message_primary or "warning")

    def prepare_if_possible(self, preparation: Preparation) -> None:
        """Prepare statements from now on, unless the connection does not lead to one process."""
        with self.translated() as connection:
            self.prepares = preparation.is_possible(connection)
        self._preparation = preparation

    @contextmanager
    def sending_ahead(self) -> Iterator[ImpatientConnection]:
        """Yield the connection; what it executes is sent, and the server works on it from now on.

        The cursors have their rows once anything else asks for the connection.
        """
        with self.translated():
            self._sent = ExitStack()
            # Not synced: psycopg would wait for the answer. The server works without it.
            self._sent.enter_context(self.connection.pipeline())
            yield self.connection

    def receive_some(self) -> None:
        """Take what has come of what was sent ahead, without waiting for the rest.

        The network's buffers are smaller than a page; the server waits while they are full.
        """
        with suppress(psycopg.Error):  # whatever is wrong, the next question will say
            self.connection.pgconn.consume_input()

    def _receive(self) -> None:
        """Let the cursors of what was sent ahead have their rows."""
        sent, self._sent = self._sent, ExitStack()
        try:
            sent.close()
        except BaseException:
            # The end of the transaction was sent ahead as well, and skipped after what failed.
            self.rollback()
            raise

    @contextmanager
    def translated(self) -> Iterator[ImpatientConnection]:
        """Yield the connection; turn its errors into this library's."""
        try:
            self._receive()
            yield self.connection
        except psycopg.Error as error:
            if self.prepares and self._preparation.is_at_fault(error):
                self.close()
                raise DatabaseUnavailable(
                    f"a prepared statement is out of date: {error}"
                ) from error
            raise _translate(self.connection.silence or error) from error

    def moment(self) -> str:
        """Return the present snapshot's text.

        Not asked is whether this is a standby by now, where nobody writes: the relay's next write,
        in a few seconds at the most, will find that out.
        """
        if self.prepares:
            self.define(_MOMENT, _MOMENT_QUERY)
            self.latest_snapshot = text(self.connection.results_of_prepared(_MOMENT)[-1])
        else:
            self.latest_snapshot = self.text_of(_MOMENT_QUERY)
        return self.latest_snapshot

    def text_of(self, query: str) -> str:
        """Return the one text that a query yields, in the cheapest way; call it in `translated`."""
        return text(self.results_of(query)[-1])

    def results_of(self, query: str) -> list[PGresult]:
        """Return what a query's statements yield, in the cheapest way; call it in `translated`."""
        return self.connection.results_of(query)

    def define(self, name: str, query: str) -> None:
        """Prepare a statement by name, unless that has been done; call it in `translated`."""
        if name not in self._defined:
            self.connection.results_of(f"prepare {name} as {query}")
            self._defined.add(name)

    @contextmanager
    def durable(self) -> Iterator[psycopg.Connection]:
        """Yield the connection in a transaction; commit it durably, or roll it back."""
        with self.translated() as connection:
            connection.execute(
                "begin isolation level read committed; set local synchronous_commit = on; "
                + ABANDONED
            )
            try:
                yield connection
            except BaseException:
                self.rollback()
                raise
            self.commit()

    def commit(self) -> None:
        """Commit a transaction that has `synchronous_commit = on`.

        Such a commit makes everything before it durable too, on the synchronous standby where there
        is one, so what was read and is now to be published cannot be taken back by a crash or a
        fail-over. A wait for the standby that was cancelled ends with a WARNING and not with an
        error; it counts as a failure.
        """
        self._warnings.clear()
        (result,) = self.connection.results_of("commit")
        if result.command_status != b"COMMIT":  # that is how a transaction ends that had failed
            raise DatabaseUnavailable("the transaction was rolled back instead of committed")
        if self._warnings:
            raise DatabaseUnavailable(f"the commit is not durable: {self._warnings[0]}")

    def rollback(self) -> None:
        """End the transaction; a connection that is gone has ended it already."""
        if not self.connection.closed:
            with suppress(psycopg.Error):
                self._receive()
                # Not through psycopg, which would forget what is prepared.
                self.connection.results_of("rollback")

    def expecting_long(self, seconds: float) -> AbstractContextManager[None]:
        """Let the server be silent for so long."""
        return self.connection.expecting_long(seconds)

    def close(self) -> None:
        """Close the connection; never raises."""
        with suppress(psycopg.Error):
            self.connection.close()


def text(result: PGresult, column: int = 0) -> str:
    """Return a column of the first row; call it where that is no null."""
    return cast("bytes", result.get_value(0, column)).decode()


def _translate(error: psycopg.Error) -> OutboxError:
    away = isinstance(error, _AWAY)
    fault = fault_of_sqlstate(error.sqlstate or (CONNECTION_LOST if away else ""))
    sentence = str(error).strip().split("\n")[0]
    code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate and not fault.waits else ""
    return explained(fault, sentence + code)
