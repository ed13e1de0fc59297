"""What operators have paused, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from outbox.store.pauses import Pause, Pauses, Target
from outbox.store.postgresql.audit import write_audit

if TYPE_CHECKING:
    from outbox.names import Names
    from outbox.store.held import Action
    from outbox.store.postgresql.session import Session


class PostgreSQLPauses:
    """Implements PauseStore."""

    def __init__(self, session: Session, names: Names) -> None:
        self._session = session
        self._names = names
        self._table = names["outbox_pause"]

    def in_force(self) -> list[Pause]:
        """Return every pause, the oldest first."""
        with self._session.translated() as connection:
            rows = connection.execute(
                f"""select relay, lane, topic, extract(epoch from at)::float8, actor, reason
                      from {self._table} order by id"""
            ).fetchall()
        return [Pause(Target(*row[:3]), *row[3:]) for row in rows]

    def of(self, relay: str) -> Pauses:
        """Return what concerns one relay name; for `Store.paused`."""
        with self._session.translated() as connection:
            rows = connection.execute(
                f"""select relay, lane, topic from {self._table}
                     where relay is null or relay = %s""",
                (relay,),
            ).fetchall()
        return Pauses(relay, frozenset(Target(*row) for row in rows))

    def pause(self, target: Target, reason: str | None, action: Action) -> bool:
        """Pause it, unless just that is paused already."""
        with self._session.durable() as connection:
            added = connection.execute(
                f"""insert into {self._table} (relay, lane, topic, actor, reason)
                    values (%s, %s, %s, %s, %s) on conflict do nothing""",
                (target.relay, target.lane, target.topic, action.actor, reason),
            ).rowcount
            if added:
                write_audit(connection, self._names, action, 0)
        return added == 1

    def resume(self, targets: Iterable[Target], action: Action) -> int:
        """Lift these pauses."""
        with self._session.durable() as connection:
            lifted = sum(
                connection.execute(
                    f"""delete from {self._table}
                         where relay is not distinct from %s and lane is not distinct from %s
                           and topic is not distinct from %s""",
                    (target.relay, target.lane, target.topic),
                ).rowcount
                for target in targets
            )
            if lifted:
                write_audit(connection, self._names, action, 0)
        return lifted
