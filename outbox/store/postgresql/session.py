"""A connection that speaks the errors of this library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, cast

import psycopg
from psycopg import errors as pg

from outbox.database_faults import CONNECTION_LOST, explained, fault_of_sqlstate
from outbox.errors import DatabaseUnavailable, OutboxError
from outbox.store.postgresql.patience import ImpatientConnection

if TYPE_CHECKING:
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

#: Makes a transaction read by index only.
BY_INDEX = "; ".join(f"set local {name} = {value}" for name, value in _BY_INDEX.items())

#: The same as one statement, for where several in one are not possible.
BY_INDEX_AS_QUERY = "select " + ", ".join(
    f"set_config('{name}', '{value}', true)" for name, value in _BY_INDEX.items()
)


class Session:
    """One PostgreSQL connection, in autocommit; transactions are opened by name."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
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

    @contextmanager
    def sending_ahead(self) -> Iterator[psycopg.Connection]:
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
    def translated(self) -> Iterator[psycopg.Connection]:
        """Yield the connection; turn its errors into this library's."""
        try:
            self._receive()
            yield self.connection
        except psycopg.Error as error:
            raise _translate(self._silence or error) from error

    @property
    def _silence(self) -> psycopg.Error | None:
        connection = self.connection
        return connection.silence if isinstance(connection, ImpatientConnection) else None

    def moment(self) -> str:
        """Return the present snapshot's text.

        Not asked is whether this is a standby by now, where nobody writes: the relay's next write,
        in a few seconds at the most, will find that out.
        """
        self.latest_snapshot = self.text_of("select pg_current_snapshot()")
        return self.latest_snapshot

    def text_of(self, query: str) -> str:
        """Return the one text that a query yields, in the cheapest way; call it in `translated`."""
        connection = self.connection
        text = connection.text_of(query) if isinstance(connection, ImpatientConnection) else None
        if text is None:  # ask in the ordinary way, which raises what there is to raise
            (text,) = cast("tuple[str]", connection.execute(query).fetchone())
        return text

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
        self.connection.execute("commit")
        if self._warnings:
            raise DatabaseUnavailable(f"the commit is not durable: {self._warnings[0]}")

    def rollback(self) -> None:
        """End the transaction; a connection that is gone has ended it already."""
        if not self.connection.closed:
            with suppress(psycopg.Error):
                self._receive()
                self.connection.execute("rollback")

    def expecting_long(self, seconds: float) -> AbstractContextManager[None]:
        """Let the server be silent for so long."""
        if isinstance(self.connection, ImpatientConnection):
            return self.connection.expecting_long(seconds)
        return nullcontext()

    def close(self) -> None:
        """Close the connection; never raises."""
        with suppress(psycopg.Error):
            self.connection.close()


def _translate(error: psycopg.Error) -> OutboxError:
    away = isinstance(error, _AWAY)
    fault = fault_of_sqlstate(error.sqlstate or (CONNECTION_LOST if away else ""))
    sentence = str(error).strip().split("\n")[0]
    code = f" (SQLSTATE {error.sqlstate})" if error.sqlstate and not fault.waits else ""
    return explained(fault, sentence + code)
