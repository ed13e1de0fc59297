"""Where a new relay name begins: its first plan, with floors that need no scan of the log.

Two transactions, in this order. The first reads the sequence, takes an id and ends, so that its
value is a lower bound of the numbers of all messages that are fresh to any later snapshot (see
docs/adr/0002-cursor.md). The second takes the snapshot and writes cursor and plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, cast

from outbox.errors import ConfigurationError
from outbox.store.postgresql.sequence import sequence_state

if TYPE_CHECKING:
    import psycopg

    from outbox.names import Names
    from outbox.store.postgresql.session import Session

Start = Literal["earliest", "latest"] | datetime

_NOTHING = "3:3:"


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first plan of a relay name, and from which time on messages are asked for."""

    last: str
    floor: int
    target: str
    target_floor: int
    next_floor: int
    starts_at: datetime | None


def bound_of_later(session: Session, names: Names) -> int:
    """Return a lower bound of the numbers that are fresh to every snapshot from now on."""
    with session.durable() as connection:
        last_value, _ = sequence_state(connection, names)
        connection.execute("select pg_current_xact_id()")
    return last_value


def beginning(connection: psycopg.Connection, names: Names, start: Start, bound: int) -> Beginning:
    """Return where to begin. `bound`: of `bound_of_later`, before this transaction began.

    From a time, the first plan has everything that is committed now and numbered at least as the
    first message of that time. What is written now and not committed comes with the plans after it,
    as late or as fresh messages, whatever its number: nothing of that time can be left out. Some
    messages of before may come with it.
    """
    row = connection.execute("select pg_current_snapshot()::text, clock_timestamp()").fetchone()
    present, now = cast("tuple[str, datetime]", row)
    if start == "earliest":
        return Beginning(_NOTHING, 0, _NOTHING, 0, bound, None)
    if start == "latest":
        return Beginning(present, bound, present, bound, bound, now)
    if start > now:
        raise ConfigurationError(f"{start.isoformat()} is later than the database's clock")
    # The whole log is looked through: times are in the order of numbers only about.
    row = connection.execute(
        f"select min(seq) - 1 from {names['outbox_message']} where created_at >= %s", (start,)
    ).fetchone()
    (floor,) = cast("tuple[int | None]", row)
    return Beginning(_NOTHING, bound if floor is None else floor, present, bound, bound, start)
