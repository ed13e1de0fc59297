"""Runs the tests in `suite`, each time as a Django project of its own."""

from __future__ import annotations

from pathlib import Path

from tests.django.project import postgresql_databases, run_suite, sqlite_databases

WITHOUT_KAFKA = ("-m", "not kafka")


def test_the_suite_passes_on_postgresql(postgresql_url: str) -> None:
    run_suite(postgresql_databases(postgresql_url), *WITHOUT_KAFKA)


def test_the_suite_passes_on_sqlite(tmp_path: Path) -> None:
    run_suite(sqlite_databases(tmp_path), *WITHOUT_KAFKA)


def test_the_suite_passes_with_a_schema_and_a_prefix(postgresql_url: str) -> None:
    databases = postgresql_databases(postgresql_url)
    outbox = {"SCHEMA": "events", "TABLE_PREFIX": "shop_"}
    run_suite(databases, *WITHOUT_KAFKA, outbox=outbox)
