"""A log that is written, partly delivered, dumped, and restored into another cluster."""

from __future__ import annotations

import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from outbox.database import DatabaseUrl, connect_postgresql
from outbox.migrations import migrate
from outbox.names import Names
from outbox.record import Position, Record
from outbox.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.postgresql import PrivatePostgreSQL

PAGE = 5  # messages; what is taken comes in whole pages


class Log:
    """One database with a log in it; `delivered` is what a relay has taken, in order.

    `database`: one that is there already, with its log.
    """

    def __init__(
        self, server: PrivatePostgreSQL, *, create: bool = True, database: str | None = None
    ) -> None:
        self._server = server
        self.url = server.url(database) if database else server.create_database()
        self.written: list[str] = []
        self.delivered: list[str] = []
        if create and not database:
            migrate(self.url)

    @contextmanager
    def connection(self) -> Iterator[Any]:
        with closing(connect_postgresql(DatabaseUrl.parse(self.url))) as connection:
            yield connection

    def write(self, *payloads: str, savepoint: bool = False, slot: int | None = None) -> None:
        """Commit messages in one transaction, perhaps each within a savepoint."""
        with self.connection() as connection, connection.transaction():
            for payload in payloads:
                if savepoint:
                    with connection.transaction():
                        self.insert(connection, payload, slot)
                else:
                    self.insert(connection, payload, slot)

    def insert(self, connection: Any, payload: str, slot: int | None = None) -> None:
        """Write one message in the caller's transaction, which is expected to commit."""
        connection.execute(
            """insert into outbox_message (slot, topic, key, payload)
               values (coalesce(%s, outbox_slot()), 't', 'k', convert_to(%s, 'UTF8'))""",
            (slot, payload),
        )
        self.written.append(payload)

    def deliver(
        self, limit: int = 1_000_000, *, relay: str = "default", stream: str = "default"
    ) -> list[str]:
        """Take `limit` messages, as a relay does, save the position, and return them."""
        with self.relaying(relay, stream) as take:
            return take(limit)

    @contextmanager
    def relaying(
        self, relay: str = "default", stream: str = "default"
    ) -> Iterator[Callable[[int], list[str]]]:
        """Hold the lane and yield a function that takes so many messages."""
        store = open_store(DatabaseUrl.parse(self.url), Names())
        store.connect()
        with closing(store):
            lease = store.acquire(relay, stream, "test", 10.0)
            assert lease is not None
            reader: Any = store.reader(lease)
            position: Position = lease.position

            def take(limit: int) -> list[str]:
                nonlocal position
                taken: list[str] = []
                while len(taken) < limit and (page := reader.read(PAGE, 1_000_000)):
                    taken += [(Record(*record).payload or b"").decode() for record in page.records]
                    position = page.end
                    store.save(lease, position, 10.0)
                self.delivered += taken
                return taken

            yield take
            store.release(lease, position)

    def burn_ids(self, count: int) -> None:
        """Use up transaction ids."""
        with self.connection() as connection:
            connection.execute(
                f"""do $$ begin for i in 1..{count} loop
                    perform pg_current_xact_id(); commit; end loop; end $$"""
            )

    def value(self, sql: str) -> Any:
        with self.connection() as connection:
            return connection.execute(sql).fetchone()[0]

    def dump(self, *options: str) -> str:
        """Return pg_dump's SQL."""
        return self._program("pg_dump", "--no-owner", *options)

    def restore(self, dump: str) -> None:
        """Feed SQL to psql, which must not find anything wrong with it."""
        self._program("psql", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", feed=dump)

    def _program(self, name: str, *options: str, feed: str | None = None) -> str:
        done = subprocess.run(
            [self._server.program(name), *options, "-d", self.url],
            input=feed,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def first_deliveries(*parts: list[str]) -> list[str]:
    """Return what was delivered, in order, without repeats."""
    return list(dict.fromkeys(payload for part in parts for payload in part))
