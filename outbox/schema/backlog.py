"""How many messages may wait: a value in the tables, which writers look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from outbox.errors import ConfigurationError
from outbox.schema import postgresql

if TYPE_CHECKING:
    import sqlite3

    import psycopg

    from outbox.names import Names

BacklogAction: TypeAlias = Literal["warn", "raise"]


@dataclass(frozen=True, slots=True)
class BacklogLimit:
    """How many messages may wait, and what writers do at that many; None for both is no limit."""

    messages: int | None
    action: BacklogAction | None

    def __post_init__(self) -> None:
        if (self.messages is None) != (self.action is None):
            raise ConfigurationError("a limit of the backlog needs a number and an action")
        if self.messages is not None and not 1 <= self.messages < 2**53:
            raise ConfigurationError(
                f"a limit of {self.messages} messages is not possible: use at least 1"
            )


NO_LIMIT = BacklogLimit(None, None)


def set_backlog(connection: psycopg.Connection, names: Names, limit: BacklogLimit) -> None:
    """Let writers warn, or refuse, when so many messages wait."""
    postgresql.run(
        connection,
        f"update {names['outbox_meta']} set backlog_limit = %s, backlog_action = %s",
        (limit.messages, limit.action),
    )


def set_backlog_sqlite(connection: sqlite3.Connection, names: Names, limit: BacklogLimit) -> None:
    """Let writers warn, or refuse, when so many messages wait."""
    connection.execute(
        f"update {names['outbox_meta']} set backlog_limit = ?, backlog_action = ?",
        (limit.messages, limit.action),
    )
