"""Where everything is: the two variables that `outbox-relay` reads too."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
TOPIC = "parcels"


def database_url() -> str:
    """Return the database, with a driver for asyncio: a SQLite file unless a variable says other.

    `outbox-relay` takes the same URL, whatever the driver in it.
    """
    url = os.environ.get("OUTBOX_DATABASE_URL") or f"sqlite:///{HERE}/parcels.db"
    for plain, driver in (("postgresql", "psycopg"), ("sqlite", "aiosqlite")):
        if url.startswith(f"{plain}://"):
            return url.replace(plain, f"{plain}+{driver}", 1)
    return url


def kafka() -> str | None:
    """Return Kafka's address; without one no labels are printed."""
    return os.environ.get("OUTBOX_KAFKA_BOOTSTRAP_SERVERS") or None
