"""Noting what operators do, on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

    from outbox.names import Names
    from outbox.store.held import Action


def write_audit(
    connection: psycopg.Connection, names: Names, action: Action, messages: int
) -> None:
    """Note what was done to so many messages, in the transaction that did it."""
    connection.execute(
        f"""insert into {names["outbox_audit"]} (action, actor, source, command, what, messages)
            values (%s::uuid, %s, %s, %s, %s::jsonb, %s)""",
        action.row(messages),
    )
