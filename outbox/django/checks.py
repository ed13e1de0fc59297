"""System checks: what is wrong with the settings, and what the databases lack.

Their ids are fixed; SILENCED_SYSTEM_CHECKS takes them.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.core import checks
from django.core.checks import CheckMessage, Tags
from django.db import DatabaseError, connections
from django.db.migrations.recorder import MigrationRecorder

from outbox.config.kafka_properties import check_property
from outbox.django import migrations
from outbox.django.apps import LABEL
from outbox.django.databases import engine_problem, has_tables, routed_alias
from outbox.django.settings import (
    NAME,
    RELAY_KEYS,
    OutboxSettings,
    current,
    given_settings,
    unknown_keys,
    writer,
)
from outbox.django.state import read_versions
from outbox.errors import ConfigurationError, OutboxError, SchemaMissing, SchemaTooOld
from outbox.schema.version import require_schema

if TYPE_CHECKING:
    from outbox.schema.version import Component

#: Every id there is, and what it means.
IDS = {
    "E001": "OUTBOX is not a dict, or a value in it makes no sense",
    "E002": "OUTBOX has a key that means nothing",
    "E003": "OUTBOX['DATABASES'] names an alias that DATABASES has not",
    "E004": "a database that is to have the tables is neither PostgreSQL nor SQLite",
    "E005": "a setting of the relay makes no sense, or is not for the project to set",
    "E006": "tables of our names exist that are not ours",
    "E007": "the tables are newer than the code and do not serve it",
    "W001": "the routers send messages to another alias than add() does without using=",
    "W002": "no database is to have the tables",
    "W003": "the tables are missing: run migrate",
    "W004": "the tables are older than the code: run migrate",
}


def register() -> None:
    """Register the checks; those of the databases run with `check --database` and `migrate`."""
    checks.register(check_settings, LABEL)
    checks.register(check_relay_settings, LABEL)
    checks.register(check_databases, LABEL)
    checks.register(check_tables, Tags.database)


def check_settings(**_: Any) -> list[CheckMessage]:
    """Check what the writing side reads."""
    try:
        found, given = current(), given_settings()
        writer()
    except ConfigurationError as error:
        return [_error("E001", str(error))]
    return [
        _error("E002", f"{NAME} has a key {key!r}, which means nothing.", hint)
        for key, hint in unknown_keys(given)
    ] + [
        _error("E003", f"{NAME}['DATABASES'] names {alias!r}, which DATABASES has not.")
        for alias in found.databases or ()
        if alias not in connections.settings
    ]


def check_relay_settings(**_: Any) -> list[CheckMessage]:
    """Check what the management commands read."""
    settings = _settings()
    return [_error("E005", text) for text in _relay_problems(settings)] if settings else []


def _settings() -> OutboxSettings | None:
    try:
        return current()
    except ConfigurationError:  # which is E001
        return None


def _relay_problems(settings: OutboxSettings) -> Iterator[str]:
    for name, value in settings.relay.items():
        key = RELAY_KEYS.get(name)
        try:
            if key is not None and value is not None:
                key.read(value)
        except ConfigurationError as error:
            yield f"{NAME}['RELAY'][{name!r}]: {error}"
    for name, value in settings.kafka.items():
        try:
            check_property(name, value, f"{NAME}['KAFKA']")
        except ConfigurationError as error:
            yield str(error)


def check_databases(**_: Any) -> list[CheckMessage]:
    """Check which databases are to have the tables; connects to none."""
    if _settings() is None:
        return []
    aliases = [alias for alias in connections.settings if has_tables(alias)]
    found: list[CheckMessage] = [
        _error("E004", f"Database {alias!r}: {problem}.", f"See {NAME}['DATABASES'].")
        for alias in aliases
        if (problem := engine_problem(alias))
    ]
    if not aliases:
        found.append(
            checks.Warning(
                f"No database is to have the tables of {LABEL}.",
                hint=f"Look at {NAME}['DATABASES'] and at allow_migrate() of the routers.",
                id=f"{LABEL}.W002",
            )
        )
    return found + _routing_problems()


def _routing_problems() -> list[CheckMessage]:
    routed = routed_alias()
    if routed == "default":
        return []
    return [
        checks.Warning(
            f"The routers send {LABEL} to {routed!r}, so add() refuses without using={routed!r}.",
            hint="A message belongs to the database of the change it tells of. Say using= with "
            f"every call, or let the routers have no opinion on {LABEL}.",
            id=f"{LABEL}.W001",
        )
    ]


def check_tables(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Compare the version of the tables with that of the code, on the databases given."""
    if _settings() is None:
        return []
    return [
        problem
        for alias in databases or ()
        if has_tables(alias)
        for problem in _table_problems(alias)
    ]


def _table_problems(alias: str) -> list[CheckMessage]:
    if engine_problem(alias):  # which is E004
        return []
    try:
        versions = read_versions(alias)
    except ConfigurationError as error:
        hint = f"Choose other names: {NAME} = {{'TABLE_PREFIX': …}} or {{'SCHEMA': …}}."
        return [_error("E006", f"Database {alias!r}: {error}.", hint)]
    except DatabaseError:  # Django's own checks and commands say more of that
        return []
    found = [
        problem
        for component, meta in versions.items()
        for problem in _version_problems(alias, component, meta)
    ]
    serious = [problem for problem in found if problem.is_serious()]
    return serious if _migrate_mends(alias) else found


def _migrate_mends(alias: str) -> bool:
    """Say whether this is `migrate`, about to do what the warnings would ask for."""
    if sys.argv[1:2] != ["migrate"]:
        return False
    applied = MigrationRecorder(connections[alias]).applied_migrations()
    ours = {name for app, name in applied if app == LABEL}
    known = {module.name for module in pkgutil.iter_modules(migrations.__path__)}
    return not known <= ours


def _version_problems(
    alias: str, component: Component, meta: tuple[int, int] | None
) -> Iterator[CheckMessage]:
    # Warnings where `migrate` mends it, since errors would keep `migrate` from running.
    where = "" if alias == "default" else f" --database={alias}"
    try:
        require_schema(lambda: meta, component)
    except (SchemaMissing, SchemaTooOld) as error:
        missing = isinstance(error, SchemaMissing)
        state = "missing" if missing else "older than this code"
        yield checks.Warning(
            f"Database {alias!r}: the {component} tables are {state}.",
            hint=f"Run `manage.py migrate {LABEL}{where}`. Should Django take that for done, "
            f"`manage.py outbox_migrate{where}` does the same.",
            id=f"{LABEL}.{'W003' if missing else 'W004'}",
        )
    except OutboxError as error:
        yield _error("E007", f"Database {alias!r}: {error}.")


def _error(number: str, text: str, hint: str | None = None) -> CheckMessage:
    return checks.Error(text, hint=hint, id=f"{LABEL}.{number}")
