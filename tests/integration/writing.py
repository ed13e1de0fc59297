"""What the tests of the writer share: databases with a log, and a look into it."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

Row = dict[str, Any]


@dataclass(frozen=True)
class Database:
    """A database that has a log: `postgresql://…` or `sqlite:///…`."""

    url: str

    @property
    def is_postgresql(self) -> bool:
        """Say which of the two it is."""
        return self.url.startswith("postgresql")

    @property
    def path(self) -> str:
        """The file of a SQLite database."""
        return self.url.removeprefix("sqlite:///")

    def engine(self, **arguments: Any) -> Engine:
        """Make a SQLAlchemy engine without a pool, so that nothing stays open."""
        url = self.url.replace("postgresql://", "postgresql+psycopg://")
        return create_engine(url, poolclass=NullPool, **arguments)

    def async_engine(self, **arguments: Any) -> AsyncEngine:
        """Make the same for asyncio."""
        url = self.url.replace("postgresql://", "postgresql+psycopg://")
        return create_async_engine(
            url.replace("sqlite://", "sqlite+aiosqlite://"), poolclass=NullPool, **arguments
        )

    def rows(self, table: str = "outbox_message") -> list[Row]:
        """Return what is committed, in the order of the log."""
        query = f"select * from {table} order by seq"
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query).fetchall()]

    def topics(self) -> list[str]:
        """Return the topics of what is committed, in the order of the log."""
        return [row["topic"] for row in self.rows()]

    def execute(self, sql: str) -> None:
        """Run one statement and commit."""
        with self._connection() as connection:
            connection.execute(sql)
            connection.commit()

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        if self.is_postgresql:
            with closing(psycopg.connect(self.url, row_factory=dict_row)) as connection:
                yield connection
            return
        with closing(sqlite3.connect(self.path)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection
