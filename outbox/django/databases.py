"""Which of Django's connections holds the tables: said by the caller, never guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections, router

from outbox.django.apps import LABEL
from outbox.django.settings import NAME, current
from outbox.errors import ConfigurationError
from outbox.schema.source import check_names
from outbox.transactions.opening import Dialect, supported_dialect

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper


def connection(using: str = "default") -> BaseDatabaseWrapper:
    """Return this thread's connection to the database `using`, checked to be one with our tables.

    It is what `Outbox.add` and `Inbox.record` take as the transaction. Raises ConfigurationError
    for an alias that is unknown, that is to have no tables of ours, or that contradicts the
    routers. Whether the tables were migrated shows when something is written.
    """
    check_alias(using)
    return connections[using]


def check_alias(using: str) -> None:
    """Raise ConfigurationError unless messages may be written to this alias."""
    if problem := problem_of(using):
        raise ConfigurationError(f"using={using!r}: {problem}; nothing was written")
    routed = routed_alias()
    if routed not in ("default", using):
        raise ConfigurationError(
            f"using={using!r}: the routers send {LABEL} to {routed!r}, and the message must go to "
            f"the database of the change it tells of; nothing was written. Say using={routed!r}, "
            f"or let the routers have no opinion on {LABEL}"
        )


def problem_of(using: str) -> str | None:
    """Say why an alias can have no tables of ours, or None."""
    if using not in connections.settings:
        return f"DATABASES has no such alias, only {', '.join(map(repr, connections.settings))}"
    chosen = current().databases
    if chosen is not None and using not in chosen:
        return f"{NAME}['DATABASES'] names {', '.join(map(repr, chosen)) or 'no alias'}"
    if not router.allow_migrate(using, LABEL):
        return f"the routers allow no migration of {LABEL} there, so it has no tables"
    # Where nobody has said which databases are to have them, another engine is no mistake.
    return engine_problem(using) if chosen is None and using != DEFAULT_DB_ALIAS else None


def engine_problem(using: str) -> str | None:
    """Say why the engine of an alias can have no tables of ours, or None."""
    vendor = connections[using].vendor
    if vendor not in get_args(Dialect):
        return f"its engine is {vendor}, and the tables need PostgreSQL or SQLite"
    try:
        check_names(supported_dialect(vendor), current().names)
    except ConfigurationError as error:
        return str(error)
    return None


def has_tables(using: str) -> bool:
    """Say whether the tables belong onto this alias, by OUTBOX and by the routers."""
    return problem_of(using) is None


def routed_alias() -> str:
    """Return where the routers send messages; "default" where they have no opinion."""
    if not router.routers:
        return "default"
    return router.db_for_write(apps.get_model(LABEL, "OutboxMessage"))
