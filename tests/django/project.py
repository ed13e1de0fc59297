"""Run the tests in `suite`, or the project's manage.py, with given databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from outbox.database import DatabaseUrl
from tests.django.conftest import SUITE_SETTINGS

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "tests" / "django" / "suite"

_DJANGO_NAMES = {
    "user": "USER",
    "password": "PASSWORD",
    "host": "HOST",
    "port": "PORT",
    "dbname": "NAME",
}


def postgresql_databases(url: str) -> dict[str, dict[str, Any]]:
    """Return Django's DATABASES: three, beside the given one, which Django's runner makes."""
    parameters = dict(DatabaseUrl.parse(url).parameters)
    found = {_DJANGO_NAMES[key]: value for key, value in parameters.items() if key in _DJANGO_NAMES}
    found["ENGINE"] = "django.db.backends.postgresql"
    return {
        alias: {**found, "TEST": {"NAME": f"{found['NAME']}_{alias}"}}
        for alias in ("default", "other", "bare")
    }


def sqlite_databases(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the same in files."""
    return {
        alias: {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(directory / f"{alias}.db"),
            "TEST": {"NAME": str(directory / f"test_{alias}.db")},
        }
        for alias in ("default", "other", "bare")
    }


def run_suite(
    databases: dict[str, dict[str, Any]], *arguments: str, outbox: dict[str, Any] | None = None
) -> None:
    """Run the tests of the suite and fail with what they said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(SUITE), "-q", "--no-header", *arguments],
        cwd=ROOT,
        env=project_environment(databases, outbox or {}),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def project_environment(
    databases: dict[str, dict[str, Any]], outbox: dict[str, Any]
) -> dict[str, str]:
    """Return the environment of a process of the project."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": SUITE_SETTINGS,
        "OUTBOX_SUITE_DATABASES": json.dumps(databases),
        "OUTBOX_SUITE_OUTBOX": json.dumps(outbox),
        "PYTHONPATH": str(ROOT),
    }
