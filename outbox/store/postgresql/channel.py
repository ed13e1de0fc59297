"""NOTIFY and LISTEN, on a connection that does nothing else."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from outbox.database import DatabaseUrl, connect_postgresql
from outbox.errors import ConfigurationError, DatabaseUnavailable
from outbox.store.postgresql.patience import ImpatientConnection, Patience

#: Nothing here takes a server long; in seconds.
_SILENCE_S = 10.0


def channel_name(table_prefix: str) -> str:
    """Return what a log's writers and relays call the channel.

    Without the schema, which one side may name and the other take from its search path. To be woken
    by the writers of another schema costs a look.
    """
    return f"{table_prefix}outbox_message"


class Channel:
    """One connection, for one side. Every method raises DatabaseUnavailable when the server is away
    or refuses, after which the channel is of no further use."""

    def __init__(
        self,
        url: DatabaseUrl,
        table_prefix: str,
        application_name: str,
        password_callback: Callable[[], str] | None = None,
    ) -> None:
        self._name = channel_name(table_prefix)
        self._patience = Patience(_SILENCE_S)
        self._connection = connect_postgresql(
            url,
            password_callback=password_callback,
            application_name=application_name,
            kind=ImpatientConnection,
        )
        self._expect_answers()

    def notify(self) -> None:
        """Wake whoever listens."""
        # Nothing is written that a crash could lose, so there is no disk and no standby to wait
        # for. In a transaction, since a pooler may give the next one to another server process.
        self._run(f'begin; set local synchronous_commit = off; notify "{self._name}"; commit')

    def say(self, text: str) -> None:
        """Wake whoever listens, with a text that they can tell from others."""
        self._run("select pg_notify(%s, %s)", self._name, text)

    def listen(self) -> None:
        """Hear from now on."""
        self._run(f'listen "{self._name}"')

    def leave(self) -> None:
        """Hear no longer, as far as the server knows whom it talks to."""
        self._run(f'unlisten "{self._name}"')

    def ping(self) -> None:
        """Find out whether the server is still there."""
        self._run("select 1")

    def heard(self, timeout_s: float) -> list[str]:
        """Return the texts of what was heard, after the first or when the time is over."""
        self._expect_nothing()
        try:
            notices = self._connection.notifies(timeout=timeout_s, stop_after=1)
            return [notice.payload for notice in notices]
        except psycopg.Error as error:
            raise _away(error) from error
        finally:
            self._expect_answers()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _run(self, sql: str, *values: str) -> None:
        try:
            self._connection.execute(sql.encode(), values or None)
        except psycopg.OperationalError as error:
            raise _away(error) from error
        except psycopg.Error as error:
            raise ConfigurationError(_sentence(error)) from error

    def _expect_answers(self) -> None:
        if isinstance(self._connection, ImpatientConnection):
            self._connection.patience = self._patience

    def _expect_nothing(self) -> None:
        if isinstance(self._connection, ImpatientConnection):
            self._connection.patience = None


def _away(error: psycopg.Error) -> DatabaseUnavailable:
    return DatabaseUnavailable(_sentence(error))


def _sentence(error: psycopg.Error) -> str:
    return str(error).strip().partition("\n")[0]
