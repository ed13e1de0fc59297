"""Our tables for queries, the same on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy import Dialect
    from sqlalchemy.types import TypeEngine

    from outbox.names import Names


class Moment(TypeDecorator[datetime]):
    """An aware datetime: timestamptz, on SQLite seconds since 1970."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return what the database has."""
        return Float() if dialect.name == "sqlite" else DateTime(timezone=True)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        """Return what the database compares with."""
        return value.timestamp() if value and dialect.name == "sqlite" else value

    def process_result_value(self, value: object, _: Dialect) -> datetime | None:
        """Return the datetime."""
        if isinstance(value, float | int):
            return datetime.fromtimestamp(value, UTC)
        return value if isinstance(value, datetime) else None


class TextUuid(TypeDecorator[UUID]):
    """A UUID: of its own type, on SQLite text with dashes."""

    impl = Uuid()
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return what the database has."""
        return Text() if dialect.name == "sqlite" else Uuid()

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> object:
        """Return what the database compares with."""
        return str(value) if value and dialect.name == "sqlite" else value

    def process_result_value(self, value: object, _: Dialect) -> UUID | None:
        """Return the UUID."""
        return UUID(value) if isinstance(value, str) else value  # type: ignore[return-value] # Uuid's own


_JSON = JSON().with_variant(JSONB(), "postgresql")


def message(names: Names) -> Table:
    """Return the log. What belongs to the relay alone is left out."""
    return _table(
        names,
        "outbox_message",
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        *_message_columns(),
        *_texts("lane"),
    )


def scheduled(names: Names) -> Table:
    """Return the messages that wait for a time or a condition."""
    return _table(
        names,
        "outbox_scheduled",
        Column("no", BigInteger, primary_key=True),
        Column("due_at", Moment),
        *_texts("wait_for"),
        *_message_columns(),
        *_texts("lane"),
    )


def cursor(names: Names) -> Table:
    """Return how far each relay name is, and who holds its lane."""
    return _table(
        names,
        "outbox_cursor",
        Column("relay", Text, primary_key=True),
        Column("lane", Text, primary_key=True),
        Column("after_seq", BigInteger),
        Column("epoch", BigInteger),
        Column("owner", Text),
        Column("lease_until", Moment),
        Column("cluster_id", Text),
        Column("starts_at", Moment),
        Column("delivery", Text),
        Column("origin", TextUuid),
        Column("moved_at", Moment),
        Column("crashes", Integer),
        Column("handed_seq", BigInteger),
        Column("suspect_seq", BigInteger),
        Column("suspect_deaths", Integer),
    )


def process(names: Names) -> Table:
    """Return the relay processes that run."""
    return _table(
        names,
        "outbox_process",
        Column("relay", Text, primary_key=True),
        Column("process", Text, primary_key=True),
        *_texts("version", "state"),
        Column("started_at", Moment),
        Column("seen_at", Moment),
    )


def held(names: Names) -> Table:
    """Return the messages that cannot be sent now."""
    return _table(
        names,
        "outbox_held",
        Column("relay", Text, primary_key=True),
        *_texts("lane"),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        *_message_columns(),
        Column("state", Text),
        Column("blocks", Boolean),
        Column("attempts", Integer),
        Column("next_attempt_at", Moment),
        *_texts("fault", "error"),
        Column("held_at", Moment),
        Column("changed_at", Moment),
    )


def pause(names: Names) -> Table:
    """Return what operators have paused."""
    return _table(
        names,
        "outbox_pause",
        Column("id", BigInteger, primary_key=True),
        *_texts("relay", "lane", "topic"),
        Column("at", Moment),
        *_texts("actor", "reason"),
    )


def audit(names: Names) -> Table:
    """Return what operators did."""
    return _table(
        names,
        "outbox_audit",
        Column("id", BigInteger, primary_key=True),
        Column("at", Moment),
        Column("action", TextUuid),
        *_texts("actor", "source", "command"),
        Column("what", _JSON),
        Column("messages", BigInteger),
    )


def inbox_message(names: Names) -> Table:
    """Return the messages that have taken effect."""
    return _table(
        names,
        "inbox_message",
        Column("consumer", Text, primary_key=True),
        Column("message_id", Text, primary_key=True),
        Column("received_at", Moment),
    )


def _message_columns() -> list[Column[Any]]:
    return [
        Column("created_at", Moment),
        Column("id", TextUuid),
        *_texts("topic", "key"),
        Column("payload", LargeBinary),
        *_texts("type", "content_type"),
        Column("headers", _JSON),
        *_texts("traceparent", "tracestate"),
        Column("expires_at", Moment),
        *_texts("key_id"),
    ]


def _texts(*names: str) -> list[Column[str]]:
    return [Column(name, Text) for name in names]


def _table(names: Names, plain: str, *columns: Column[Any]) -> Table:
    # In a MetaData of its own: create_all() must never make these, see declaring.py.
    return Table(names.prefix + plain, MetaData(), *columns, schema=names.schema)
