"""The sequence that numbers the log: where it stands, and whether that can be true."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from outbox.errors import LogInconsistent
from outbox.names import Names
from outbox.store.postgresql.snapshot import Plan

if TYPE_CHECKING:
    import psycopg

#: The last number drawn, of the sequence in `pg_sequence`. Not `select last_value`: every 32
#: numbers nextval writes a value 32 higher into the row for a moment, for the WAL, and a plain
#: select sees it, since it takes no lock on the page. As a floor that loses messages. The function
#: takes the lock.
LAST_VALUE = "coalesce(pg_sequence_last_value(seqrelid), 0)"


def sequence_state(connection: psycopg.Connection, names: Names) -> tuple[int, int]:
    """Return the last number of the log's sequence, and its cache."""
    row = connection.execute(
        f"select {LAST_VALUE}, seqcache from pg_sequence where seqrelid = %s::regclass",
        (names["outbox_message_seq"],),
    ).fetchone()
    return cast("tuple[int, int]", row)


def check_sequence(last_value: int, cache: int, plan: Plan) -> None:
    """Raise LogInconsistent if the sequence cannot be the one the plan was made with."""
    if cache != 1:
        raise LogInconsistent(
            f"the sequence of the log has cache {cache}, so the order of its numbers means "
            "nothing; set it to 1: alter sequence … cache 1"
        )
    if last_value < max(plan.floor, plan.target_floor, plan.next_floor):
        raise LogInconsistent(
            f"the sequence of the log stands at {last_value}, below {plan.next_floor} where it has "
            "been: it was reset, or the database went back in time. New messages would never be "
            "delivered. Stop the relays and run `outbox-relay migrate --rebase`"
        )
