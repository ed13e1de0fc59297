"""The state of the relays, asked on Django's own connection by the store's own SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from django.db import DatabaseError, connections

from outbox.database import require_psycopg
from outbox.django.plain import PlainConnection
from outbox.django.settings import current
from outbox.errors import OutboxError
from outbox.schema import postgresql, sqlite
from outbox.schema.source import COMPONENTS
from outbox.transactions.opening import supported_dialect

if TYPE_CHECKING:
    from outbox.names import Names
    from outbox.schema.version import Component
    from outbox.store.base import RelayStatus, StoreAdmin


#: Where messages are that are neither in the log nor delivered.
_BESIDE_THE_LOG = {
    "outbox_scheduled": "there are messages that wait for their time or a condition",
    "outbox_held": "there are messages that could not be sent and are held",
}


def relay_states(using: str) -> list[RelayStatus]:
    """Return how far each relay name has come. Counts no table.

    Raises OutboxError, also for what the database refuses; an open transaction survives that.
    """
    return _admin(using).status()


def _admin(using: str) -> StoreAdmin:
    """Return the store's own class, with Django's connection under it."""
    names = current().names
    if supported_dialect(connections[using].vendor) == "sqlite":
        return _sqlite_admin(using, names)
    require_psycopg()
    return _postgresql_admin(using, names)


def _sqlite_admin(using: str, names: Names) -> StoreAdmin:
    from outbox.store.sqlite import SQLiteStore

    class DjangoStore(SQLiteStore):
        def _translated(self) -> Any:
            return _translated(using)

    return DjangoStore("", names)


def _postgresql_admin(using: str, names: Names) -> StoreAdmin:
    from outbox.store.postgresql.admin import PostgreSQLAdmin

    class DjangoSession:
        def translated(self) -> Any:
            return _translated(using)

    class DjangoAdmin(PostgreSQLAdmin):
        @property
        def session(self) -> Any:
            return DjangoSession()

    return cast("StoreAdmin", DjangoAdmin(names))


@contextmanager
def _translated(using: str) -> Iterator[PlainConnection]:
    connection = PlainConnection(connections[using])
    try:
        with connection.transaction():
            yield connection
    except DatabaseError as error:
        sentence = str(error).strip().partition("\n")[0]
        raise OutboxError(f"the database {using!r} says: {sentence}") from error


def read_versions(using: str) -> dict[Component, tuple[int, int] | None]:
    """Return (version, compatible_from) of each component, None where it has no tables.

    Raises ConfigurationError when tables of these names are not ours.
    """
    return {component: _read_version(using, component) for component in COMPONENTS}


def _read_version(using: str, component: Component) -> tuple[int, int] | None:
    connection: Any = PlainConnection(connections[using])
    names = current().names
    if supported_dialect(connections[using].vendor) == "sqlite":
        sqlite.version(connection, names, component)  # raises for what is not ours
        return sqlite.read_meta(connection, names, component)
    schema = postgresql.place(connection, names)
    postgresql.version(connection, schema, names, component)
    return postgresql.read_meta(connection, schema, names, component)


def undelivered(using: str) -> str | None:
    """Say which messages wait for a relay, or None if all are delivered."""
    states = relay_states(using)
    if not states and _has(using, "outbox_message"):
        return "there are messages and no relay name to deliver them"
    waiting = [state for state in states if state.lag_messages]
    if not waiting:
        return next((words for table, words in _BESIDE_THE_LOG.items() if _has(using, table)), None)
    return "not delivered: " + ", ".join(
        f"{state.lag_messages} by relay {state.relay} ({state.lane})" for state in waiting
    )


def _has(using: str, table: str) -> bool:
    with _translated(using) as connection:
        query = f"select 1 from {current().names[table]} limit 1"
        return connection.execute(query).fetchone() is not None
