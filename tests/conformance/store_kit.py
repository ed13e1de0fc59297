"""A log to test with, on any database: stores that read it and writers that fill it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from outbox.database import DatabaseUrl, connect_postgresql, connect_sqlite
from outbox.migrations import migrate
from outbox.names import Names
from outbox.record import Page, Record
from outbox.store.base import Lease
from outbox.store.opening import open_store
from outbox.store.owner import new_owner

LEASE_S = 10.0


@dataclass
class StoreKit:
    """One log, and as many stores and writers on it as a test likes."""

    url: DatabaseUrl
    names: Names = field(default_factory=Names)
    _open: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        migrate(self.url, self.names)

    @property
    def has_snapshots(self) -> bool:
        return self.url.dialect == "postgresql"

    def store(self) -> Any:
        """Open a store, as a relay of its own would."""
        store = open_store(self.url, self.names)
        store.connect()
        self._open.append(store)
        return store

    def unconnected(self) -> Any:
        """Make a store that connects when it is used, in the thread that uses it."""
        return open_store(self.url, self.names)

    def writer(self) -> Any:
        """Open a connection of an application; it must say begin, and commit or rollback."""
        if self.url.dialect == "sqlite":
            connection: Any = connect_sqlite(self.url.path)
        else:
            connection = connect_postgresql(self.url)
        self._open.append(connection)
        return connection

    def write(self, connection: Any, *keys: str, payload: bytes = b"x", topic: str = "t") -> None:
        """Insert a message for each key, as plain SQL would."""
        mark = "?" if self.url.dialect == "sqlite" else "%s"
        for key in keys:
            connection.execute(
                f"insert into {self.names['outbox_message']} (topic, key, payload) "
                f"values ({mark}, {mark}, {mark})",
                (topic, key, payload),
            )

    @contextmanager
    def transaction(self, connection: Any | None = None) -> Iterator[Any]:
        connection = connection or self.writer()
        connection.execute("begin")
        yield connection
        connection.execute("commit")

    def commit(self, *keys: str, payload: bytes = b"x") -> None:
        """Write and commit a message for each key, in one transaction."""
        with self.transaction() as connection:
            self.write(connection, *keys, payload=payload)

    def age(self, seconds: float) -> None:
        """Make every message so much older, and written when another slot had its turn."""
        log = self.names["outbox_message"]
        if self.has_snapshots:
            self.writer().execute(
                f"update {log} set slot = (outbox_slot() + 2) % 4, "
                f"created_at = created_at - interval '{seconds} seconds'"
            )
        else:
            self.writer().execute(f"update {log} set created_at = created_at - {seconds}")

    def keys_in_log(self) -> list[str]:
        """Return the keys of all messages that are there."""
        found = self.writer().execute(
            f"select key from {self.names['outbox_message']} order by seq"
        )
        return [key for (key,) in found]

    def close(self) -> None:
        for opened in self._open:
            # SQLite lets only the thread that opened it close a connection, which it has then.
            with suppress(sqlite3.ProgrammingError):
                opened.close()


def acquire(store: Any, relay: str = "default") -> Lease:
    """Take the lane, which must be free."""
    lease = store.acquire(relay, "default", new_owner(), LEASE_S)
    assert lease is not None
    return lease


def read_all(reader: Any, max_rows: int = 1000, max_bytes: int = 10_000_000) -> list[Page]:
    """Read until there is nothing more."""
    pages = []
    while (page := reader.read(max_rows, max_bytes)) is not None:
        pages.append(page)
    return pages


def keys(pages: list[Page]) -> list[str | None]:
    return [Record(*record).key for page in pages for record in page.records]


def positions(pages: list[Page]) -> list[tuple[int, int]]:
    return [(page.batch, record[0]) for page in pages for record in page.records]
