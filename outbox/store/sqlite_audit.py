"""Noting what operators do, on SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from outbox.names import Names
    from outbox.store.held import Action


def write_audit(
    connection: sqlite3.Connection, names: Names, action: Action, messages: int
) -> None:
    """Note what was done to so many messages, in the transaction that did it."""
    connection.execute(
        f"""insert into {names["outbox_audit"]} (action, actor, source, command, what, messages)
            values (?, ?, ?, ?, ?, ?)""",
        action.row(messages),
    )
