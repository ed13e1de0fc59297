"""A router as projects with several databases have one."""

from __future__ import annotations

from typing import Any


class Router:
    """Keeps our tables away from `bare`, and has opinions that tests set."""

    writes_to: str | None = None

    def db_for_write(self, model: Any, **_: Any) -> str | None:
        """Return what a test said of our models."""
        return self.writes_to if model._meta.app_label == "outbox_relay" else None

    def allow_migrate(self, db: str, app_label: str, **_: Any) -> bool | None:
        """Return False for our tables on `bare`."""
        return False if (db, app_label) == ("bare", "outbox_relay") else None
