from __future__ import annotations

from tests.verify.conftest import any_world, postgresql_world, sqlite_world

__all__ = ["any_world", "postgresql_world", "sqlite_world"]
