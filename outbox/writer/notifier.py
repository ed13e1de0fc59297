"""Tells the relay that there are messages, after the commit and out of its way."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from outbox.database import DatabaseUrl, require_psycopg
from outbox.errors import ConfigurationError
from outbox.names import Names

if TYPE_CHECKING:
    from outbox.store.postgresql.channel import Channel

logger = logging.getLogger("outbox.notifier")

#: A connection that nobody needed for so long is given back, in seconds.
_IDLE_S = 60.0

#: So long after a failure the next attempt is made, in seconds.
_RETRY_S = 5.0

#: The end of a process waits this long for the last notification, in seconds.
_FAREWELL_S = 1.0

_WRITTEN, _COMMITTED = "outbox.written", "outbox.committed"


class Notifier:
    """Wakes relays that run with `wake_up = "notify"`, from a thread with a connection of its own.

    Thread-safe, and usable after a fork. `database_url` is that of the relay, and may lead through
    a pooler; `every_s` is the least time between two notifications of this process. A notification
    that is lost costs the relay one poll interval, so nothing here waits for the database, or fails
    because of it: what goes wrong is logged. Raises ConfigurationError for a URL that is none, or
    no PostgreSQL's, and MissingExtra.
    """

    def __init__(
        self,
        database_url: str,
        *,
        table_prefix: str = "",
        every_s: float = 0.02,
        password_callback: Callable[[], str] | None = None,
    ) -> None:
        self._url = DatabaseUrl.parse(database_url)
        if self._url.dialect != "postgresql":
            raise ConfigurationError("Notifier: only PostgreSQL has notifications")
        if every_s < 0:
            raise ConfigurationError("Notifier: every_s must not be negative")
        require_psycopg()
        self._names = Names(None, table_prefix)
        self._every_s = every_s
        self._password_callback = password_callback
        self._complaint: str | None = None
        self._start_anew()

    def wake(self) -> None:
        """Let the relay look at the log soon. Call it after the commit; it returns at once."""
        if self._process != os.getpid():  # threads do not survive a fork
            self._start_anew()
        if not self._wanted.is_set():
            self._wanted.set()
        if self._thread is None:
            self._start_thread()

    def watch(self, engine: Any) -> None:
        """Wake after every transaction of a SQLAlchemy Engine, or AsyncEngine, that wrote messages.

        It does so when the connection goes back to the pool, or is used again.
        """
        from sqlalchemy import event

        engine = getattr(engine, "sync_engine", engine)
        event.listen(engine, "after_cursor_execute", self._note_statement)
        event.listen(engine, "commit", _note_commit)
        event.listen(engine, "commit_twophase", lambda connection, *_: _note_commit(connection))
        event.listen(engine, "rollback", _note_rollback)
        event.listen(engine, "checkin", lambda _, record: self._wake_for(record.info))

    def close(self) -> None:
        """Send what is still to be sent, if that is quickly done, and end. Never raises."""
        self._ended.set()
        self._wanted.set()
        if self._thread is not None and self._process == os.getpid():
            self._thread.join(_FAREWELL_S)

    def __enter__(self) -> Notifier:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # In the application's threads

    def _note_statement(self, connection: Any, _: object, statement: str, *more: object) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        self._wake_for(connection.info)  # of the transaction before, on the same connection
        # What waits is written beside the log, and may be due before the next look.
        if "outbox_message" in statement or "outbox_scheduled" in statement:
            connection.info[_WRITTEN] = True

    def _wake_for(self, info: dict[str, Any]) -> None:
        if info.pop(_COMMITTED, None):
            self.wake()

    def _start_anew(self) -> None:
        self._process = os.getpid()
        self._starting = threading.Lock()
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def _start_thread(self) -> None:
        with self._starting:
            if self._thread is None:
                # A daemon: the application must be able to end while the database is away.
                self._thread = threading.Thread(
                    target=self._run, name="outbox-notifier", daemon=True
                )
                with suppress(RuntimeError):  # the interpreter is about to end
                    self._thread.start()

    # In a thread of its own

    def _run(self) -> None:
        channel: Channel | None = None
        while not self._ended.is_set() or self._wanted.is_set():
            if not self._wanted.wait(_IDLE_S):
                _close(channel)
                channel = None
                continue
            self._wanted.clear()  # before the notification: whoever comes later wants another
            try:
                channel = channel or self._open()
                channel.notify()
                self._complaint = None
                self._ended.wait(self._every_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, the application goes on
                _close(channel)
                channel = None
                self._complain(error)
                self._ended.wait(_RETRY_S)
        _close(channel)

    def _open(self) -> Channel:
        from outbox.store.postgresql.channel import Channel

        return Channel(self._url, self._names.prefix, "outbox notifier", self._password_callback)

    def _complain(self, error: Exception) -> None:
        """Say once what is wrong."""
        reason = str(error) or type(error).__name__
        if reason != self._complaint:
            logger.warning(
                "the relay cannot be notified and finds messages by polling: %s",
                reason,
                extra={"event": "notifier.failed"},
            )
        self._complaint = reason


def _close(channel: Channel | None) -> None:
    if channel is not None:
        with suppress(Exception):
            channel.close()


def _note_commit(connection: Any) -> None:
    # SQLAlchemy calls this before it commits, so it is too early to wake anybody.
    if connection.info.pop(_WRITTEN, None):
        connection.info[_COMMITTED] = True


def _note_rollback(connection: Any) -> None:
    connection.info.pop(_WRITTEN, None)
