"""What operators have paused, on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeAlias

from outbox.store.pauses import Pause, Pauses, Target
from outbox.store.sqlite_audit import write_audit

if TYPE_CHECKING:
    from outbox.names import Names
    from outbox.store.held import Action

Connected: TypeAlias = Callable[[], AbstractContextManager[sqlite3.Connection]]


class SQLitePauses:
    """Implements PauseStore."""

    def __init__(self, names: Names, translated: Connected, transaction: Connected) -> None:
        self._table = names["outbox_pause"]
        self._names = names
        self._translated = translated
        self._transaction = transaction

    def in_force(self) -> list[Pause]:
        """Return every pause, the oldest first."""
        with self._translated() as connection:
            rows = connection.execute(
                f"select relay, lane, topic, at, actor, reason from {self._table} order by id"
            ).fetchall()
        return [Pause(Target(*row[:3]), *row[3:]) for row in rows]

    def of(self, relay: str) -> Pauses:
        """Return what concerns one relay name; for `Store.paused`."""
        with self._translated() as connection:
            rows = connection.execute(
                f"""select relay, lane, topic from {self._table}
                     where relay is null or relay = ?""",
                (relay,),
            ).fetchall()
        return Pauses(relay, frozenset(Target(*row) for row in rows))

    def pause(self, target: Target, reason: str | None, action: Action) -> bool:
        """Pause it, unless just that is paused already."""
        with self._transaction() as connection:
            added = connection.execute(
                f"""insert into {self._table} (relay, lane, topic, actor, reason)
                    values (?, ?, ?, ?, ?) on conflict do nothing""",
                (target.relay, target.lane, target.topic, action.actor, reason),
            ).rowcount
            if added:
                write_audit(connection, self._names, action, 0)
        return added == 1

    def resume(self, targets: Iterable[Target], action: Action) -> int:
        """Lift these pauses."""
        with self._transaction() as connection:
            lifted = sum(
                connection.execute(
                    f"delete from {self._table} where relay is ? and lane is ? and topic is ?",
                    (target.relay, target.lane, target.topic),
                ).rowcount
                for target in targets
            )
            if lifted:
                write_audit(connection, self._names, action, 0)
        return lifted
