"""The service's table, and the tables of the outbox and the inbox beside it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from outbox.alembic import add_tables


class Base(DeclarativeBase):
    """What Alembic compares the database with."""


class Parcel(Base):
    """A parcel; it has a label once the booking has been heard of."""

    __tablename__ = "parcel"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    recipient: Mapped[str]
    label: Mapped[str | None]


#: Autogenerate writes `op.create_outbox(…)` for these, and they can be queried.
tables = add_tables(Base.metadata)
