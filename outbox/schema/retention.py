"""How long delivered messages are kept: a value in the tables, and the pace of the slots."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from outbox.errors import ConfigurationError
from outbox.schema import postgresql

if TYPE_CHECKING:
    import sqlite3

    import psycopg

    from outbox.names import Names

#: In the source of outbox_slot(): the seconds for which a slot is written to.
_PACE = re.compile(r"/ \d+ %")

#: Seconds. Below, slots would take turns faster than relays look; above, an integer overflows.
SHORTEST, LONGEST = 60, 10 * 365 * 86_400


def check_retention(seconds: int) -> int:
    """Return the retention, or raise ConfigurationError."""
    if not SHORTEST <= seconds <= LONGEST:
        raise ConfigurationError(
            f"a retention of {seconds} seconds is not possible: use {SHORTEST} seconds to ten years"
        )
    return seconds


def set_retention(connection: psycopg.Connection, names: Names, seconds: int) -> None:
    """Keep delivered messages for so long. Needs the owner of the tables, and no lock on the log.

    Rows stay in their slots; those written from now on go to slots of the new pace. Whether a slot
    may be emptied is seen from its rows, so that a change of pace cannot make it happen too early.
    """
    postgresql.run(
        connection,
        f"update {names['outbox_meta']} set retention_s = %s",
        (check_retention(seconds),),
    )
    set_pace(connection, names, seconds)


def set_pace(connection: psycopg.Connection, names: Names, retention_s: int) -> None:
    """Let each slot be written to for half of the retention."""
    function = names["outbox_slot"]
    (source,) = postgresql.one(
        connection,
        "select prosrc from pg_proc where oid = %s::regprocedure",
        (f"{function}()",),
    )
    paced = _PACE.sub(f"/ {max(retention_s // 2, 1)} %", source)
    postgresql.run(
        connection,
        f"""create or replace function {function}() returns smallint
            language sql volatile parallel safe as $$ {paced.strip()} $$""",
    )


def set_retention_sqlite(connection: sqlite3.Connection, names: Names, seconds: int) -> None:
    """Keep delivered messages for so long."""
    connection.execute(
        f"update {names['outbox_meta']} set retention_s = ?", (check_retention(seconds),)
    )
