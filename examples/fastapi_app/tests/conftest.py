"""The service on a database of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(APP))


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test an empty database with all tables, and no Kafka."""
    from alembic import command
    from alembic.config import Config

    monkeypatch.setenv("OUTBOX_DATABASE_URL", f"sqlite:///{tmp_path}/parcels.db")
    monkeypatch.delenv("OUTBOX_KAFKA_BOOTSTRAP_SERVERS", raising=False)
    config = Config()  # without the file, whose logging is for the command line
    config.set_main_option("script_location", str(APP / "migrations"))
    command.upgrade(config, "head")
