"""The least each role needs, as SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.names import SLOTS

if TYPE_CHECKING:
    from outbox.names import Names

#: What a writer may set. The rest is the log's own: nobody can forge a position.
WRITER_COLUMNS = (
    "topic",
    "key",
    "payload",
    "id",
    "type",
    "content_type",
    "headers",
    "traceparent",
    "tracestate",
    "lane",
    "expires_at",
    "key_id",
)

#: What a writer says of a message that is not to be sent yet.
SCHEDULE_COLUMNS = ("due_at", "wait_for")

#: What a writer must know of the backlog, and what a relay notes of it (all but the first two).
BACKLOG_COLUMNS = (
    "backlog_limit",
    "backlog_action",
    "backlog_messages",
    "backlog_seq",
    "backlog_at",
)


def grants(
    names: Names,
    *,
    writer_role: str | None = None,
    relay_role: str | None = None,
    schema: str | None = None,
) -> str:
    """Return the GRANT statements for the roles that are given, or empty text.

    `schema` is where the tables are, if `names` leaves that to the search path.
    """
    schema = names.schema or schema
    lines: list[str] = []
    if writer_role:
        lines += _usage(schema, writer_role) + _writer(names, quoted(writer_role))
    if relay_role:
        lines += _usage(schema, relay_role) + _relay(names, quoted(relay_role))
    return "".join(f"{line};\n" for line in lines)


def _usage(schema: str | None, role: str) -> list[str]:
    return [f"grant usage on schema {quoted(schema)} to {quoted(role)}"] if schema else []


def _writer(names: Names, role: str) -> list[str]:
    scheduled = names["outbox_scheduled"]
    timing = ", ".join(SCHEDULE_COLUMNS)
    return [
        f"grant insert ({', '.join(WRITER_COLUMNS)}) on {names['outbox_message']} to {role}",
        # A column grant alone fails on the default of seq.
        f"grant usage on sequence {names['outbox_message_seq']} to {role}",
        f"grant execute on function {names['outbox_slot']}() to {role}",
        # To schedule, to find and cancel what was scheduled, and to release what waits.
        f"grant insert ({timing}, {', '.join(WRITER_COLUMNS)}) on {scheduled} to {role}",
        f"grant select (id, {timing}), update ({timing}), delete on {scheduled} to {role}",
        # To know when too many messages wait.
        f"grant select ({', '.join(BACKLOG_COLUMNS)}) on {names['outbox_meta']} to {role}",
    ]


def _relay(names: Names, role: str) -> list[str]:
    columns, timing = ", ".join(WRITER_COLUMNS), ", ".join(SCHEDULE_COLUMNS)
    noted = ", ".join(("log_id", "timeline", *BACKLOG_COLUMNS[2:]))
    return [
        # It moves what is due into the log.
        f"grant select, insert ({columns}) on {names['outbox_message']} to {role}",
        # To read a slot by itself and empty it, and to know which one is written to.
        *(
            f"grant select, truncate on {names[f'outbox_message_{slot}']} to {role}"
            for slot in SLOTS
        ),
        f"grant execute on function {names['outbox_slot']}() to {role}",
        f"grant select, usage on sequence {names['outbox_message_seq']} to {role}",
        f"grant select, update ({timing}), delete on {names['outbox_scheduled']} to {role}",
        f"grant select, insert, update, delete on {names['outbox_cursor']} to {role}",
        f"grant select, insert, delete on {names['outbox_plan']} to {role}",
        f"grant select, insert, update on {names['outbox_lane']} to {role}",
        f"grant select, insert, update, delete on {names['outbox_process']} to {role}",
        f"grant select, insert, update, delete on {names['outbox_held']} to {role}",
        f"grant select, insert, delete on {names['outbox_pause']} to {role}",
        # What was done cannot be undone in here.
        f"grant select, insert on {names['outbox_audit']} to {role}",
        f"grant select, update ({noted}) on {names['outbox_meta']} to {role}",
    ]


def quoted(identifier: str) -> str:
    """Return any identifier as SQL takes it literally."""
    return '"' + identifier.replace('"', '""') + '"'
