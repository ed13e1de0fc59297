"""What a writer does when too many messages wait: asks now and then, warns or refuses.

The limit is in the tables, and a relay notes there how many messages wait. A process looks at that
row every few seconds, in the transaction of whoever writes then, so that adding costs no query.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from outbox.errors import BacklogFull
from outbox.transactions.opening import AsyncTransaction, Statement, Transaction

if TYPE_CHECKING:
    from outbox.names import Names

logger = logging.getLogger("outbox.writer")

#: How often a process looks, in seconds: while there is a limit, and while there is none.
LOOK_S = 5.0
LOOK_FOR_LIMIT_S = 30.0

#: A count that is older, in seconds, is nobody's: no relay runs, and all that was written since
#: waits as well. A relay counts four times in this time.
STALE_S = 60

#: A warning is said again after so long, in seconds.
WARN_S = 60.0

#: Databases whose state is kept; more begin anew.
_MOST = 1000

_COLUMNS = ("backlog_limit", "backlog_action", "backlog_messages", "backlog_seq", "backlog_at")


@dataclass(slots=True)
class State:
    """What is known of one log. Times by this process's monotonic clock."""

    look_at: float = float("-inf")
    warn_at: float = float("-inf")
    action: str | None = None
    limit: int = 0
    waiting: int = 0

    @property
    def is_full(self) -> bool:
        """Return whether more wait than should."""
        return self.action is not None and self.waiting >= self.limit

    def take(self, row: tuple[Any, ...] | None, now: float) -> None:
        """Take what a look has found; None where there is no limit."""
        self.action, self.limit, self.waiting = row or (None, 0, 0)
        self.look_at = now + (LOOK_FOR_LIMIT_S if row is None else LOOK_S)


@dataclass(slots=True)
class Memory:
    """What a process knows of the logs it writes to: by database and by name of the table."""

    engines: MutableMapping[object, dict[str, State]] = field(default_factory=WeakKeyDictionary)
    others: dict[object, dict[str, State]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def state(self, database: object, table: str) -> State:
        """Return what is known of a log."""
        places = self.others if isinstance(database, tuple) else self.engines
        tables = places.get(database)
        found = None if tables is None else tables.get(table)
        return self._begun(places, database, table) if found is None else found

    def _begun(
        self, places: MutableMapping[object, dict[str, State]], database: object, table: str
    ) -> State:
        with self.lock:
            if len(places) >= _MOST:
                places.clear()
            return places.setdefault(database, {}).setdefault(table, State())

    def forget(self) -> None:
        """Forget everything: the next message of each log looks again."""
        with self.lock:
            self.engines.clear()
            self.others.clear()


#: Of this process: an Outbox may be made anew for every request.
MEMORY = Memory()


class Backlog:
    """Looks at the limit of one log for an Outbox."""

    def __init__(
        self, names: Names, memory: Memory = MEMORY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._table = names["outbox_meta"]
        self._memory = memory
        self._clock = clock
        self._may_look, self._look = _may_look(names), _look(names)

    def check(self, transaction: Transaction) -> None:
        """Raise BacklogFull, or warn, where too many messages wait."""
        if (database := transaction.database) is None:
            return
        state = self._memory.state(database, self._table)
        now = self._clock()
        if state.action is None and now < state.look_at:
            return  # as nearly always; the path is hot
        if _is_due(state, transaction, now):
            state.look_at = now + LOOK_S  # one thread looks, the others go by what is known
            allowed = transaction.row(self._may_look)
            state.take(transaction.row(self._look) if allowed and allowed[0] else None, now)
        if state.is_full:
            self._act(state, now)

    async def check_async(self, transaction: AsyncTransaction) -> None:
        """Do the same for asyncio."""
        if (database := transaction.database) is None:
            return
        state = self._memory.state(database, self._table)
        now = self._clock()
        if _is_due(state, transaction, now):
            state.look_at = now + LOOK_S
            allowed = await transaction.row(self._may_look)
            state.take(await transaction.row(self._look) if allowed and allowed[0] else None, now)
        if state.is_full:
            self._act(state, now)

    def _act(self, state: State, now: float) -> None:
        told = f"about {state.waiting} messages wait for the relay, and the limit is {state.limit}"
        if state.action == "raise":
            raise BacklogFull(
                f"{told}; nothing was written. See `outbox-relay status` for what holds them up,"
                " and `outbox-relay migrate --backlog-limit` for the limit"
            )
        if now >= state.warn_at:
            state.warn_at = now + WARN_S
            logger.warning("%s", told, extra={"event": "writer.backlog_full"})


def _is_due(state: State, transaction: Transaction | AsyncTransaction, now: float) -> bool:
    """Return whether to look. With SQLite also before anybody is refused: what is known goes by the
    connection, and that may be another one by now."""
    return now >= state.look_at or (state.is_full and transaction.dialect == "sqlite")


def _may_look(names: Names) -> Statement:
    """Ask first: a statement that is refused would end the caller's transaction."""
    listed = ", ".join(f"'{column}'" for column in _COLUMNS)
    return Statement(
        postgresql=f"""
            select count(*) = {len(_COLUMNS)}
                   and bool_and(has_column_privilege(attrelid, attnum, 'select'))
                   and has_sequence_privilege(
                           to_regclass('{names["outbox_message_seq"]}')::oid, 'usage')
              from pg_attribute
             where attrelid = to_regclass('{names["outbox_meta"]}') and attname in ({listed})""",
        sqlite=f"""
            select count(*) = {len(_COLUMNS)} from pragma_table_info('{_plain(names)}')
             where name in ({listed})""",
    )


def _look(names: Names) -> Statement:
    """Ask for the action, the limit, and how many wait: no row where there is no limit."""
    # By the time at which the transaction began: in one that is old, so is what it sees.
    stale = {
        "postgresql": f"now() - interval '{STALE_S} seconds'",
        "sqlite": f"(julianday('now') - 2440587.5) * 86400.0 - {STALE_S}",
    }
    written = {
        "postgresql": f"""greatest(coalesce(pg_sequence_last_value(
                              '{names["outbox_message_seq"]}'::regclass), 0) - backlog_seq, 0)""",
        "sqlite": f"""max((select coalesce(max(seq), 0) from sqlite_sequence
                            where name = '{names.prefix}outbox_message') - backlog_seq, 0)""",
    }
    return Statement(
        **{
            dialect: f"""
                select backlog_action, backlog_limit,
                       backlog_messages + case when coalesce(backlog_at < {stale[dialect]}, true)
                                               then {written[dialect]} else 0 end
                  from {names["outbox_meta"]} where backlog_limit is not null"""
            for dialect in ("postgresql", "sqlite")
        }
    )


def _plain(names: Names) -> str:
    return f"{names.prefix}outbox_meta"
