"""The rim to PostgreSQL for work on the tables: connections, places, locks, errors in our words."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from outbox.database import DatabaseUrl, PasswordCallback, connect_postgresql, require_psycopg
from outbox.database_faults import CONNECTION_LOST, explained, fault_of_sqlstate
from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    OutboxError,
    SchemaMissing,
)
from outbox.schema.source import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import psycopg

    from outbox.names import Names
    from outbox.schema.version import Component


Values: TypeAlias = Sequence[object] | Mapping[str, object] | None

#: Every comment of ours begins with this; a table without it is somebody else's.
MARK = "outbox-relay:"

#: A row that was written in this cluster: its mark is the id of the transaction that wrote it.
NATIVE = "xmin::text = (written_by::text::numeric % 4294967296)::text"


@contextmanager
def transaction(
    url: DatabaseUrl, *, password_callback: PasswordCallback | None = None
) -> Iterator[psycopg.Connection]:
    """Yield a connection in one transaction of our own, committed at the end.

    READ COMMITTED whatever the role's default is: each statement must see what was committed
    before it, above all after it waited for a lock.
    """
    require_psycopg()
    import psycopg

    connection = connect_postgresql(url, password_callback=password_callback)
    try:
        _check_server(connection)
        with connection.transaction():
            connection.execute("set transaction isolation level read committed, read write")
            yield connection
    except psycopg.Error as error:
        raise _translated(error) from error
    finally:
        connection.close()


def _check_server(connection: psycopg.Connection) -> None:
    version = connection.info.server_version
    if version < 13_00_00:
        raise ConfigurationError(
            f"PostgreSQL {version // 10_000} is too old: the log needs the transaction ids of "
            "PostgreSQL 13 or later"
        )
    if one(connection, "select pg_is_in_recovery()")[0]:
        raise DatabaseUnavailable(
            "this server is a standby, which cannot be written to; give the primary's address"
        )


def _translated(error: psycopg.Error) -> OutboxError:
    from psycopg import errors

    text = " ".join(str(error).split())
    if isinstance(error, errors.InsufficientPrivilege):
        return ConfigurationError(
            f"{text}; run this as the owner of the tables, or as a role that may create them"
        )
    if isinstance(error, errors.LockNotAvailable | errors.DeadlockDetected):
        return OutboxError(
            f"{text}; other transactions use the tables: end them (`outbox-relay status` shows "
            "those that hold messages), then try again"
        )
    if isinstance(error, errors.UndefinedTable | errors.UndefinedColumn):
        return SchemaMissing(f"{text}; run `outbox-relay migrate --check`")
    away = isinstance(error, errors.OperationalError | errors.InterfaceError)
    return explained(fault_of_sqlstate(error.sqlstate or (CONNECTION_LOST if away else "")), text)


def one(connection: psycopg.Connection, sql: str, values: Values = None) -> tuple[Any, ...]:
    """Return the only row of a query."""
    return cast("tuple[Any, ...]", _execute(connection, sql, values).fetchone())


def rows(connection: psycopg.Connection, sql: str, values: Values = None) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    return _execute(connection, sql, values).fetchall()


def run(connection: psycopg.Connection, sql: str, values: Values = None) -> None:
    """Run a statement, or several without values."""
    _execute(connection, sql, values)


def statements(script: str) -> list[str]:
    """Split a script into its statements, for drivers that take one at a time."""
    ends = [token.end() for token in _TOKEN.finditer(script) if token[0] == ";"]
    pieces = [
        script[start:end].strip() for start, end in zip([0, *ends], [*ends, None], strict=True)
    ]
    return [piece.removesuffix(";") for piece in pieces if _without_comments(piece)]


#: What may hold a semicolon that ends nothing, and the one that does.
_TOKEN = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | '(?:[^']|'')*' | "[^"]*" | (\$\w*\$).*?\1 | ;""",
    re.DOTALL | re.VERBOSE,
)


def _without_comments(piece: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", "", piece, flags=re.DOTALL).strip()


def _execute(connection: psycopg.Connection, sql: str, values: Values) -> psycopg.Cursor:
    # Our own texts with checked identifiers; psycopg asks for literals to keep values out.
    return connection.execute(cast("Any", sql), values)


def place(connection: psycopg.Connection, names: Names) -> str:
    """Return the schema the tables are in, or would be created in."""
    if names.schema is not None:
        return names.schema
    (schema,) = one(connection, "select current_schema()")
    if schema is None:
        raise ConfigurationError(
            "no schema of the search_path exists, so there is no place for the tables; give one "
            "with --schema or OUTBOX_SCHEMA"
        )
    return cast("str", schema)


def lock_place(connection: psycopg.Connection, schema: str, names: Names) -> None:
    """Let one transaction at a time change the tables of this schema and prefix."""
    digest = hashlib.sha256(f"outbox-relay {schema} {names.prefix}".encode()).digest()
    key = int.from_bytes(digest[:8], signed=True)
    run(connection, "select pg_advisory_xact_lock(%s)", (key,))


def version(connection: psycopg.Connection, schema: str, names: Names, component: Component) -> int:
    """Return the version of the tables of a component, 0 where there are none.

    Raises ConfigurationError when tables of these names are not ours.
    """
    plain = tables("postgresql", component)
    found = comments(connection, schema, [names.prefix + name for name in plain])
    marked = _commented(plain)
    strange = sorted(
        name
        for name, comment in found.items()
        if name.removeprefix(names.prefix) in marked and not comment.startswith(MARK)
    )
    if found and f"{names.prefix}{component}_meta" not in found:
        strange = strange or sorted(found)
    if strange:
        raise ConfigurationError(
            f"schema {schema!r} already has {', '.join(strange)}, which outbox-relay did not make; "
            "nothing was changed. Choose another place with --schema or --table-prefix"
        )
    meta = read_meta(connection, schema, names, component) if found else None
    return meta[0] if meta else 0


def _commented(plain: Iterable[str]) -> set[str]:
    # Partitions carry no comment of their own: their parent's stands for them.
    return {name for name in plain if not name[-1].isdigit()}


def read_meta(
    connection: psycopg.Connection, schema: str, names: Names, component: str
) -> tuple[int, int] | None:
    """Return (version, compatible_from) of a component, None where its meta table is missing."""
    meta = f"{component}_meta"
    if not comments(connection, schema, [names.prefix + meta]):
        return None
    table = names[meta]
    found = rows(connection, f"select version, compatible_from from {table}")
    return cast("tuple[int, int] | None", found[0] if found else None)


def comments(connection: psycopg.Connection, schema: str, names: list[str]) -> dict[str, str]:
    """Return those relations of a schema that exist, with their comments."""
    found = rows(
        connection,
        """select c.relname, coalesce(obj_description(c.oid, 'pg_class'), '')
             from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname = %s and c.relname = any(%s) order by c.relname""",
        (schema, names),
    )
    return {str(name): str(comment) for name, comment in found}
