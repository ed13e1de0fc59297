"""How Alembic reaches the database: through asyncio, as the service does."""

from __future__ import annotations

import asyncio
from logging.config import fileConfig

from alembic import context
from parcels.models import Base
from parcels.settings import database_url
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

if context.config.config_file_name:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)


def run(connection: Connection) -> None:
    """Run the migrations on a connection."""
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()


async def run_online() -> None:
    """Connect, then run them."""
    engine = create_async_engine(database_url())
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(url=database_url(), target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(run_online())
