"""Whether the database is where the migrations lead."""

from __future__ import annotations

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from parcels.settings import HERE


def require_newest(connection: Connection) -> None:
    """Raise unless all migrations have been run.

    Checked and not done here: several processes of a service start at once, and none of them
    should need the right to change tables.
    """
    wanted = ScriptDirectory.from_config(Config(HERE / "alembic.ini")).get_heads()
    found = MigrationContext.configure(connection).get_current_heads()
    if set(wanted) != set(found):
        raise RuntimeError(
            f"the database is at revision {', '.join(found) or 'none'}, the service needs "
            f"{', '.join(wanted)}; run `alembic upgrade head` in {HERE}"
        )
