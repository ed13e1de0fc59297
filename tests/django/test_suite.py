"""Runs the tests in `suite`, each time as a Django project of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.django.newest import environment, other_line
from tests.django.project import ROOT, postgresql_databases, run_suite, sqlite_databases
from tests.servers.availability import require
from tests.servers.fixtures import KAFKA_ADDRESS, POSTGRESQL_ADDRESS
from tests.servers.kafka_topics import KafkaServer
from tests.servers.postgresql import PostgreSQLServer

WITHOUT_KAFKA = ("-m", "not kafka")


def test_the_suite_passes_on_postgresql(postgresql_url: str) -> None:
    run_suite(postgresql_databases(postgresql_url), *WITHOUT_KAFKA)


def test_the_suite_passes_on_sqlite(tmp_path: Path) -> None:
    run_suite(sqlite_databases(tmp_path), *WITHOUT_KAFKA)


def test_tables_and_models_may_be_in_a_schema_and_have_a_prefix(postgresql_url: str) -> None:
    outbox = {"SCHEMA": "events", "TABLE_PREFIX": "shop_"}
    files = ("add", "models", "migrations", "migration_files", "checks", "inbox")
    run_suite(
        postgresql_databases(postgresql_url),
        *("-k", " or ".join(f"test_{name}" for name in files)),
        outbox=outbox,
    )


def test_commands_reach_a_real_kafka(
    postgresql_url: str, kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KAFKA_ADDRESS, kafka.bootstrap_servers)
    run_suite(postgresql_databases(postgresql_url), "-m", "kafka")


@pytest.mark.slow
def test_the_suite_passes_with_the_other_supported_line_of_django(
    postgresql_server: PostgreSQLServer,
) -> None:
    python = environment(*require(other_line))
    done = subprocess.run(
        [
            python,
            "-m",
            "pytest",
            "tests/django",
            "-q",
            "--no-header",
            "-m",
            "not slow and not kafka",
            # What SQL is made of them has nothing to do with the line.
            "--deselect=tests/django/test_suite.py::"
            + test_tables_and_models_may_be_in_a_schema_and_have_a_prefix.__name__,
        ],
        cwd=ROOT,
        env={**os.environ, POSTGRESQL_ADDRESS: postgresql_server.url("postgres")},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
