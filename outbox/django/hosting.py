"""The commands of `outbox-relay` in Django's process, with Django's settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.db import connections

from outbox.config.host import HostSettings
from outbox.database import DatabaseUrl
from outbox.django.settings import NAME, RELAY_KEYS, current
from outbox.django.wording import in_djangos_words
from outbox.errors import ConfigurationError, MissingExtra
from outbox.transactions.opening import supported_dialect

SOURCE = "Django settings"

#: What Django's OPTIONS may hold beside libpq's own keywords.
_DJANGOS_OWN = frozenset(
    {
        "assume_role",
        "connection_factory",
        "context",
        "cursor_factory",
        "isolation_level",
        "pool",
        "prepare_threshold",
        "row_factory",
        "server_side_binding",
    }
)

_LIBPQ_NAMES = {
    "NAME": "dbname",
    "USER": "user",
    "PASSWORD": "password",
    "HOST": "host",
    "PORT": "port",
}


def run_command(command: str | None, arguments: Sequence[str], *, using: str, program: str) -> int:
    """Run a command of `outbox-relay` on a database of Django's and return its exit code.

    `program` is what the command is called here. Without a command the arguments begin with one.
    """
    try:
        from outbox.cli.app import run
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f'the commands need {error.name}; run `pip install "outbox-relay[relay]"`'
        ) from error
    return run(arguments, host=host_settings(using), program=program, command=command)


def host_settings(using: str) -> HostSettings:
    """Return what Django's settings say to the commands. Secrets stay in this process."""
    found = current()
    given: dict[str, object] = {
        "database_url": database_url(using),
        "schema": found.names.schema,
        "table_prefix": found.names.prefix or None,
    }
    given |= {name.lower(): value for name, value in found.relay.items() if name in RELAY_KEYS}
    given |= {f"kafka.{name}": value for name, value in found.kafka.items()}
    return HostSettings(
        given,
        SOURCE,
        broker_at=f"'bootstrap.servers' in {NAME}['KAFKA']",
        reword=lambda text: in_djangos_words(text, using),
    )


def database_url(using: str) -> str:
    """Return the address of a database of Django's, password included.

    Raises ConfigurationError for an unknown alias, for an engine that is neither PostgreSQL nor
    SQLite, and for a SQLite database in memory.
    """
    if using not in connections.settings:
        aliases = ", ".join(map(repr, connections.settings))
        raise ConfigurationError(f"--database {using}: DATABASES has only {aliases}")
    connection = connections[using]
    settings: dict[str, Any] = connection.settings_dict
    if supported_dialect(connection.vendor) == "sqlite":
        return _sqlite_url(using, settings["NAME"])
    return DatabaseUrl("postgresql", tuple(_libpq(settings).items())).conninfo


def _sqlite_url(using: str, name: str | Path) -> str:
    if ":memory:" in str(name) or "mode=memory" in str(name):
        raise ConfigurationError(
            f"database {using!r} is a SQLite database in memory, which belongs to one connection: "
            "nobody else can read it. Give it a file; for tests that is "
            "DATABASES[…]['TEST'] = {'NAME': path}"
        )
    return f"sqlite:///{Path(name).absolute()}"


def _libpq(settings: dict[str, Any]) -> dict[str, str]:
    given = {
        keyword: str(settings[name])
        for name, keyword in _LIBPQ_NAMES.items()
        if settings.get(name) not in (None, "")
    }
    options = settings.get("OPTIONS", {})
    given |= {
        keyword: str(value)
        for keyword, value in options.items()
        if keyword not in _DJANGOS_OWN and value is not None
    }
    if role := options.get("assume_role"):
        given["options"] = f"{given.get('options', '')} -c role={role}".strip()
    return given
