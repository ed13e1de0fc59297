"""The files of migrations belong to the models and to the steps of the SQL."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db.migrations.loader import MigrationLoader

from outbox.django.operations import ApplySteps
from outbox.django.settings import current
from outbox.names import RELATIONS
from outbox.schema.dropping import drop_statements
from outbox.schema.source import steps


@pytest.mark.django_db(databases=["default", "other", "bare"])
def test_makemigrations_finds_nothing_to_do() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_every_version_of_the_tables_has_its_django_migration() -> None:
    migrations = MigrationLoader(None).disk_migrations
    applied = [
        operation.version
        for (app, _), migration in sorted(migrations.items())
        if app == "outbox_relay"
        for operation in migration.operations
        if isinstance(operation, ApplySteps)
    ]
    versions = sorted({step.version for step in steps("postgresql") + steps("sqlite")})

    assert applied == versions, (
        "add outbox/django/migrations/NNNN_….py with `dependencies = [('outbox_relay', …)]` and "
        "`operations = [ApplySteps(N)]`"
    )


def test_every_relation_is_dropped_by_name_or_with_its_table() -> None:
    dropped = " ".join(drop_statements("postgresql", current().names))
    for relation in RELATIONS:
        assert current().names[relation] in dropped or relation[-1].isdigit()
