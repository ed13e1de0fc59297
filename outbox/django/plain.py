"""A Django connection with the face of a driver's connection.

What the rest of the library does with a connection of psycopg or sqlite3 (`execute`, and
`transaction` of psycopg), it can so do on Django's: in the caller's transaction, with every driver
that Django has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from django.db import transaction

Values: TypeAlias = Sequence[object] | Mapping[str, object] | None

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


class PlainConnection:
    """Runs SQL with the parameters that the driver's own connection would take."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection

    def execute(
        self, sql: str, values: Sequence[object] | Mapping[str, object] | None = None
    ) -> Any:
        """Run a statement; without values the text goes to the database as it is."""
        cursor: Any = self._connection.cursor()
        if values and self._connection.vendor == "sqlite":
            sql = sql.replace("%", "%%").replace("?", "%s")  # Django turns them back
        cursor.execute(sql, values or None)
        return cursor

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block in a transaction of its own; within another one in a savepoint.

        It is rolled back in both: nothing here is used to write, and settings made for the block
        must not outlive it.
        """
        with transaction.atomic(using=self._connection.alias):
            yield
            transaction.set_rollback(True, using=self._connection.alias)
