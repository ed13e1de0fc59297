"""Which of Django's connections holds the tables: said by the caller, never guessed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.db import connections, router

from outbox.django.apps import LABEL
from outbox.django.settings import NAME, current
from outbox.errors import ConfigurationError

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
    return None


def has_tables(using: str) -> bool:
    """Say whether the tables belong onto this alias, by OUTBOX and by the routers."""
    return problem_of(using) is None


def routed_alias() -> str:
    """Return where the routers send messages; "default" where they have no opinion."""
    if not router.routers:
        return "default"
    return router.db_for_write(apps.get_model(LABEL, "OutboxMessage"))
