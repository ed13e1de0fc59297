"""The operation that the migrations of this application consist of."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import CommandError
from django.db import connections
from django.db.migrations.operations.base import Operation

from outbox.django.databases import engine_problem, has_tables
from outbox.django.plain import PlainConnection
from outbox.django.settings import NAME, current
from outbox.django.state import read_versions, undelivered
from outbox.errors import ConfigurationError, OutboxError
from outbox.schema.applying import apply_postgresql, apply_sqlite
from outbox.schema.dropping import drop_statements
from outbox.schema.source import steps
from outbox.schema.version import SCHEMA_VERSION, require_schema
from outbox.transactions.opening import supported_dialect

#: Set to 1, it lets `migrate outbox_relay zero` drop messages that were not delivered.
DROP_UNDELIVERED = "OUTBOX_DROP_UNDELIVERED"

# Any: Django's own signatures, and its schema editors.


class ApplySteps(Operation):
    """Apply the steps of one version, as `outbox-relay migrate` would, in Django's transaction.

    Tables of that version or a later one that `outbox-relay migrate` made are taken over as they
    are. Backwards only the first version does anything: the tables of a version serve the code
    before it as well, and the first takes all of them away.
    """

    reversible = True
    reduces_to_sql = True

    def __init__(self, version: int) -> None:
        self.version = version

    def deconstruct(self) -> tuple[str, list[int], dict[str, object]]:
        """Return how to make it again."""
        return type(self).__name__, [self.version], {}

    def describe(self) -> str:
        """Return the line that `migrate --plan` prints."""
        return f"Outbox and inbox tables, version {self.version}"

    @property
    def migration_name_fragment(self) -> str:
        """Return the part of a migration's name."""
        return f"tables_{self.version}"

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Do nothing: the models are not managed by Django."""

    def database_forwards(
        self, _app_label: str, schema_editor: Any, _from_state: Any, _to_state: Any
    ) -> None:
        """Make or upgrade the tables, unless this database is to have none."""
        using = schema_editor.connection.alias
        with _explained(using):
            if not has_tables(using):
                return
            if schema_editor.collect_sql:
                _collect(schema_editor, self._statements(using))
            else:
                _apply(using, self.version)

    def database_backwards(
        self, _app_label: str, schema_editor: Any, _from_state: Any, _to_state: Any
    ) -> None:
        """Drop the tables, unless messages wait in them."""
        using = schema_editor.connection.alias
        with _explained(using):
            if self.version > 1 or not has_tables(using):
                return
            if not schema_editor.collect_sql:
                _check_droppable(using)
            names = current().names
            for statement in drop_statements(supported_dialect(_vendor(using)), names):
                schema_editor.execute(statement, params=None)

    def _statements(self, using: str) -> Iterator[str]:
        names = current().names
        if names.schema and self.version == 1:
            yield f'create schema if not exists "{names.schema}"'
        for step in steps(supported_dialect(_vendor(using))):
            if step.version == self.version:
                yield step.sql(names).strip()


def _vendor(using: str) -> str:
    vendor: str = connections[using].vendor
    return vendor


def _collect(schema_editor: Any, statements: Iterator[str]) -> None:
    for statement in statements:
        schema_editor.execute(statement, params=None)


def _apply(using: str, version: int) -> None:
    connection: Any = PlainConnection(connections[using])
    names = current().names
    if problem := engine_problem(using):
        raise ConfigurationError(problem)
    apply = apply_sqlite if _vendor(using) == "sqlite" else apply_postgresql
    apply(connection, names, up_to=version)
    _check_compatible(using)


def _check_compatible(using: str) -> None:
    """Raise SchemaTooNew for tables that were here before, and that this code cannot use."""
    for component, meta in read_versions(using).items():
        if meta and meta[0] > SCHEMA_VERSION:
            require_schema(lambda found=meta: found, component)  # type: ignore[misc]  # bound early


def _check_droppable(using: str) -> None:
    versions = read_versions(using)
    if any(meta and meta[0] > SCHEMA_VERSION for meta in versions.values()):
        raise ConfigurationError(
            "the tables are of a later version than this code, which cannot know all of them; "
            "nothing was dropped. Use the code that made them"
        )
    waiting = undelivered(using) if versions["outbox"] else None
    if waiting and os.environ.get(DROP_UNDELIVERED) != "1":
        raise ConfigurationError(
            f"{waiting}; nothing was dropped. Deliver them with `python manage.py outbox_relay "
            f"--drain`, or lose them knowingly: {DROP_UNDELIVERED}=1 in the environment"
        )


@contextmanager
def _explained(using: str) -> Iterator[None]:
    """Let `migrate` end with one line, in the words of Django's settings."""
    try:
        yield
    except OutboxError as error:
        text = re.sub("(--schema or )?--table-prefix", f"{NAME}['TABLE_PREFIX']", str(error))
        raise CommandError(f"database {using!r}: {text}", returncode=error.exit_code) from error
