"""Database URLs, in every form people write them, and connections made from them."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from outbox.database_faults import explained_sqlite
from outbox.errors import ConfigurationError, DatabaseUnavailable, MissingExtra, SchemaMissing

if TYPE_CHECKING:
    import psycopg

Dialect = Literal["postgresql", "sqlite"]
PasswordCallback = Callable[[], str]

_FORMS = (
    "postgresql://user:password@host:5432/database, host=… dbname=…, "
    "or sqlite:////absolute/path/to/file.db"
)
_ENCODE = "in a URL, / @ : ? # and % within a user name or a password must be percent-encoded"

#: Connection parameters that are never shown.
_SECRETS = frozenset(
    {"password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key"}
)

#: Settings of drivers other than libpq, which SQLAlchemy URLs may carry and libpq would refuse.
_FOREIGN = frozenset(
    {
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "statement_cache_size",
        "async_fallback",
    }
)

_PAIR = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?=\s|$)")


@dataclass(frozen=True, slots=True, repr=False)
class DatabaseUrl:
    """Where the database is. Its text never shows a password.

    `parameters` are libpq's keywords and values; none at all means libpq's own variables
    (`PGHOST`, `PGDATABASE`, …). `path` is SQLite's file.
    """

    dialect: Dialect
    parameters: tuple[tuple[str, str], ...] = ()
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """Understand a database URL or raise ConfigurationError.

        Takes SQLAlchemy's form (`postgresql+psycopg://…`, `sqlite:///…`), libpq's (`postgres://…`,
        `host=… dbname=…`), and empty text for libpq's environment variables.
        """
        text = text.strip()
        scheme, separator, rest = text.partition("://")
        if not separator or "=" in scheme:
            return cls("postgresql", _parse_conninfo(text))
        base, _, driver = scheme.lower().partition("+")
        if base in ("postgresql", "postgres"):
            return cls("postgresql", _parse_postgresql(rest, driver))
        if base == "sqlite":
            return cls("sqlite", path=_parse_sqlite(rest))
        raise ConfigurationError(
            f"database URL: {base!r} is not a database this version knows; use {_FORMS}"
        )

    @property
    def conninfo(self) -> str:
        """Return libpq's form, password included."""
        return _conninfo(self.parameters)

    @property
    def redacted(self) -> str:
        """Return a text for people, with every secret hidden."""
        if self.dialect == "sqlite":
            return f"sqlite:///{self.path}"
        shown = [(key, "***" if key in _SECRETS else value) for key, value in self.parameters]
        return _conninfo(shown) or "postgresql (from libpq's PG* variables)"

    def __str__(self) -> str:
        return self.redacted

    def __repr__(self) -> str:
        return f"DatabaseUrl({self.redacted!r})"


def _conninfo(parameters: Iterable[tuple[str, str]]) -> str:
    return " ".join(f"{key}={_quote(value)}" for key, value in parameters)


def _quote(value: str) -> str:
    if value and not re.search(r"[\s'\\]", value):
        return value
    return "'" + value.replace("\\", r"\\").replace("'", r"\'") + "'"


def _parse_conninfo(text: str) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    position = 0
    while text[position:].strip():
        pair = _PAIR.match(text, position)
        if pair is None:
            # The text is not repeated here: it may be a password with a space in it.
            raise ConfigurationError(
                f"database URL: this is neither a URL nor key=value pairs; use {_FORMS}"
            )
        found[pair[1]] = re.sub(r"\\(.)", r"\1", pair[2].removeprefix("'").removesuffix("'"))
        position = pair.end()
    return tuple(found.items())


def _parse_postgresql(rest: str, driver: str) -> tuple[tuple[str, str], ...]:
    parts = _split(rest)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, has_password, password = credentials.partition(":")
    found = {"user": unquote(user)} if user else {}
    if has_password:
        found["password"] = unquote(password)
    found.update(_hosts(hosts.split(",")))
    if parts.path.strip("/"):
        found["dbname"] = unquote(parts.path[1:])
    _add_query(found, parts.query, driver)
    return tuple(found.items())


def _split(rest: str) -> SplitResult:
    try:
        parts = urlsplit("postgresql://" + rest)
    except ValueError:
        # `from None`: urlsplit's words repeat the text, password included.
        raise ConfigurationError(f"database URL: cannot be read; {_ENCODE}") from None
    if parts.fragment or parts.path.count("@"):
        raise ConfigurationError(f"database URL: cannot be read; {_ENCODE}")
    return parts


def _hosts(entries: list[str]) -> dict[str, str]:
    """Return libpq's `host` and `port` of one or several `host:port`, or of none."""
    split = [_host_and_port(entry) for entry in entries]
    found = {}
    if any(host for host, _ in split):
        found["host"] = ",".join(unquote(host) for host, _ in split)
    if any(port for _, port in split):
        found["port"] = ",".join(port for _, port in split)
    return found


def _host_and_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        host, _, rest = entry[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = entry.partition(":")
    if port and not port.isdecimal():
        raise ConfigurationError(f"database URL: the port is not a number; {_ENCODE}")
    return host, port


def _add_query(found: dict[str, str], query: str, driver: str) -> None:
    pairs = [pair for pair in parse_qsl(query, keep_blank_values=True) if pair[0] not in _FOREIGN]
    hosts = [value for key, value in pairs if key == "host"]
    if len(hosts) > 1:  # SQLAlchemy's way to name several servers
        found.update(_hosts(hosts))
    elif hosts:
        found["host"] = hosts[0]
    for key, value in pairs:
        if key == "ssl" and driver == "asyncpg":
            found["sslmode"] = "require" if value in ("true", "True", "1") else value
        elif key != "host":
            found[key] = value


def _parse_sqlite(rest: str) -> str:
    path, _, query = rest.partition("?")
    if path in ("", "/", "/:memory:"):
        raise ConfigurationError(
            "database URL: a SQLite database in memory belongs to one connection, and nobody else "
            "can read it; use a file: sqlite:///relative.db or sqlite:////absolute/path.db"
        )
    if not path.startswith("/") or dict(parse_qsl(query)).get("uri") or path.startswith("/file:"):
        raise ConfigurationError(
            "database URL: write a SQLite file as sqlite:///relative.db (three slashes) or "
            "sqlite:////absolute/path.db (four)"
        )
    return path[1:]


def connect_postgresql(
    url: DatabaseUrl,
    *,
    password_callback: PasswordCallback | None = None,
    application_name: str = "outbox-relay",
    connect_timeout: float = 10.0,
    kind: type[psycopg.Connection] | None = None,
) -> psycopg.Connection:
    """Connect to PostgreSQL, in autocommit mode and fit for a pooler in transaction mode.

    `password_callback` is asked for every connection, since tokens expire. `connect_timeout` is in
    seconds for each server. Raises DatabaseUnavailable, also for a wrong password or an unknown
    database, as both may be a matter of time; ConfigurationError for what libpq cannot read. `kind`
    is the class of the connection.
    """
    require_psycopg()
    import psycopg

    parameters = _with_defaults(url, application_name, connect_timeout)
    if password_callback is not None:
        parameters["password"] = _ask_password(password_callback)
    try:
        return (kind or psycopg.Connection).connect(
            _conninfo(parameters.items()),
            autocommit=True,
            # A pooler in transaction mode gives the next statement to another server process.
            prepare_threshold=None,
        )
    except psycopg.OperationalError as error:
        raise DatabaseUnavailable(f"cannot connect to {url}: {_reason(error)}") from error
    except (psycopg.ProgrammingError, ValueError) as error:
        raise ConfigurationError(f"database URL {url}: {_reason(error)}") from error


def require_psycopg() -> None:
    """Raise MissingExtra, with what to install, unless psycopg is there."""
    try:
        import psycopg  # noqa: F401 - whether it can be imported is the question
    except ImportError as error:
        raise MissingExtra(
            'PostgreSQL needs psycopg; run `pip install "outbox-relay[postgresql]"`'
        ) from error


def _with_defaults(
    url: DatabaseUrl, application_name: str, connect_timeout: float
) -> dict[str, str]:
    """Return the parameters with ours beneath them: what the URL says wins."""
    return {
        "fallback_application_name": application_name,
        "client_encoding": "utf8",
        # libpq takes one second for two, and less as no limit at all.
        "connect_timeout": str(max(2, round(connect_timeout))),
        # A server that vanished without a word is noticed in about half a minute: the last line is
        # for what was sent and never acknowledged, where keepalives are not used.
        "keepalives": "1",
        "keepalives_idle": "10",
        "keepalives_interval": "5",
        "keepalives_count": "4",
        "tcp_user_timeout": "30000",
        **dict(url.parameters),
    }


def _ask_password(callback: PasswordCallback) -> str:
    try:
        return callback()
    except Exception as error:
        raise DatabaseUnavailable(
            f"the database password callback failed: {type(error).__name__}: {error}"
        ) from error


def _reason(error: Exception) -> str:
    # psycopg repeats the last failure when it tried several servers, and libpq asks questions.
    text = " ".join(str(error).split()).removeprefix("connection failed: ")
    text = text.rpartition("All failures were: ")[2]
    return text.replace(" Is the server running on that host and accepting TCP/IP connections?", "")


def connect_sqlite(path: str, *, create: bool = False) -> sqlite3.Connection:
    """Open a SQLite file in WAL mode with foreign keys on; transactions are left to the caller.

    A connection belongs to the thread that opened it. Raises ConfigurationError when the directory
    is missing, SchemaMissing when the file is and `create` is false; when it cannot be opened, what
    `outbox.database_faults` says, mostly DatabaseUnavailable.
    """
    _check_place(path, create=create)
    connection = None
    try:
        # 30 s covers the longest write another process should make; then it is worth an error.
        connection = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma foreign_keys = on")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise explained_sqlite(error, f"cannot open the SQLite file {path}") from error
    return connection


def _check_place(path: str, *, create: bool) -> None:
    if not Path(path).parent.is_dir():
        raise ConfigurationError(
            f"database URL: the directory of the SQLite file {path} does not exist"
        )
    if not create and not Path(path).exists():
        raise SchemaMissing(f"the SQLite file {path} does not exist; run `outbox-relay migrate`")
