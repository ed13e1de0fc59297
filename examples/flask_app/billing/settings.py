"""Settings: everything that differs between places comes from the environment."""

from __future__ import annotations

import os
from decimal import Decimal


def settings() -> dict[str, object]:
    """Return what `app.config` begins with."""
    shop_url = os.environ.get("SHOP_URL", "http://127.0.0.1:8001")
    url = database_url(os.environ.get("DATABASE_URL", "sqlite:///billing.db"))
    return {
        "SQLALCHEMY_DATABASE_URI": url,
        "SQLALCHEMY_ENGINE_OPTIONS": _engine_options(url),
        "OUTBOX_KAFKA": {
            "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
        },
        "CREDIT_LIMIT": Decimal(os.environ.get("CREDIT_LIMIT", "1000.00")),
        #: The shop as the visitor's browser reaches it.
        "SHOP_URL": os.environ.get("SHOP_PUBLIC_URL", shop_url).rstrip("/"),
        #: Where traces can be looked at, such as Jaeger. Empty: nowhere.
        "TRACES_URL": os.environ.get("TRACES_PUBLIC_URL", "").rstrip("/"),
    }


def database_url(url: str) -> str:
    """Return the URL with the driver that is installed: SQLAlchemy 2.0 would take another one."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg"
    return f"{scheme}{separator}{rest}"


def _engine_options(url: str) -> dict[str, object]:
    # SQLite has one writer at a time; this one waits for the others.
    return {"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}
