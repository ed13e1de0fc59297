"""For migrations by Alembic: operations that run our SQL, and autogenerate that knows our tables.

Importing this registers `op.create_outbox`, `op.upgrade_outbox`, `op.downgrade_outbox` and
`op.drop_outbox`. The plugin for autogenerate is found by Alembic itself.
"""

from __future__ import annotations

from outbox.errors import MissingExtra

try:
    # First of all, since Alembic loads our plugin while it is itself being imported.
    import alembic  # noqa: F401 - whether it can be imported is the question
except ModuleNotFoundError as error:
    if error.name != "alembic":
        raise
    raise MissingExtra(
        'migrations by Alembic need Alembic; run `pip install "outbox-relay[alembic]"`'
    ) from error

from outbox.alembic import operations, rendering  # noqa: F401 - they register themselves
from outbox.alembic.declaring import OutboxTables, add_tables

__all__ = ["OutboxTables", "add_tables"]
