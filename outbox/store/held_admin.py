"""What operators do with held messages, on either database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, cast

from outbox.names import Names
from outbox.record import Record
from outbox.store.held import (
    HELD_COUNT_LIMIT,
    STATES,
    Action,
    Audited,
    Edition,
    HeldFilter,
    HeldMessage,
    HeldOverview,
    Place,
    State,
)


class Connection(Protocol):
    """What both drivers have."""

    def execute(self, sql: Any, values: Any = ..., /) -> Any:
        """Run a statement."""


Opening = Callable[[], AbstractContextManager[Connection]]

#: Writes a row of the audit, in the transaction of a connection.
Noting = Callable[[Any, Names, Action, int], None]

#: Gives keys of a relay name's lane a head if they have none: the first of what is blocked.
Promoting = Callable[[Any, Names, str, str, Collection[Place]], None]


@dataclass(frozen=True, slots=True)
class Speech:
    """What the databases say differently. Statements name their values as in `:name`."""

    now: str
    seconds: str
    text_of_id: str
    json: str
    lock: str
    shown_what: str
    named: bool = False

    def sql(self, text: str) -> str:
        """Return a statement as the driver takes it."""
        text = text.replace("{now}", self.now).replace("{lock}", self.lock)
        text = re.sub(r"\{seconds (.*?)\}", lambda found: self.seconds.format(found[1]), text)
        return re.sub(r"(?<!:):([a-z_]+)", r"%(\1)s", text) if self.named else text


POSTGRESQL = Speech(
    now="clock_timestamp()",
    seconds="extract(epoch from {})::float8",
    text_of_id="id::text",
    json="::jsonb",
    lock=" for update",
    shown_what="what - 'seqs' - 'ids'",
    named=True,
)
SQLITE = Speech(
    now="((julianday('now') - 2440587.5) * 86400.0)",
    seconds="({})",
    text_of_id="id",
    json="",
    lock="",
    shown_what="json_remove(what, '$.seqs', '$.ids')",
)

_MESSAGE = """seq, lane, {id}, topic, key, type, state, attempts, fault, error,
    coalesce(length(payload), 0), {seconds {now} - created_at}, {seconds {now} - held_at},
    {seconds next_attempt_at - {now}}"""
_RECORD = (
    "seq, {id}, topic, key, payload, type, content_type, {headers}, traceparent, tracestate, "
    "null, 0"
)


#: Compared so that only the primary key fits: an index of states would be walked from end to end.
_NOT_BLOCKED = "(state || '') <> 'blocked'"


class HeldActions:
    """Implements HeldAdmin."""

    def __init__(
        self,
        names: Names,
        speech: Speech,
        reading: Opening,
        writing: Opening,
        noting: Noting,
        promoting: Promoting,
    ) -> None:
        self._names = names
        self._held = names["outbox_held"]
        self._speech = speech
        self._reading = reading
        self._writing = writing
        self._noting = noting
        self._promoting = promoting

    # Looking

    def counts(self, relay: str) -> dict[State, int]:
        """Return how many there are in each state, up to a limit."""
        return {
            state: self.count(HeldFilter(relay, (state,)), HELD_COUNT_LIMIT + 1) for state in STATES
        }

    def overview(self, relay: str) -> HeldOverview:
        """Return how much there is, and how old."""
        oldest = {state: self._oldest_s(relay, state) for state in STATES if state != "blocked"}
        sql = f"""select count(*) from (select 1 from {self._held} where relay = :relay
                   and blocks and state <> 'blocked' limit :limit) as m"""
        ((keys,),) = self._rows(sql, {"relay": relay, "limit": HELD_COUNT_LIMIT + 1})
        known: dict[State, float] = {
            state: seconds for state, seconds in oldest.items() if seconds is not None
        }
        return HeldOverview(self.counts(relay), known, cast("int", keys))

    def _oldest_s(self, relay: str, state: State) -> float | None:
        where, values = self._where(HeldFilter(relay, (state,)))
        rows = self._rows(
            f"""select {{seconds {{now}} - created_at}} from {self._held}
                 where {where} order by seq limit 1""",
            values,
        )
        return max(rows[0][0], 0.0) if rows else None

    def count(self, which: HeldFilter, limit: int) -> int:
        """Return how many match, at most `limit`."""
        where, values = self._where(which)
        sql = f"select count(*) from (select 1 from {self._held} where {where} limit :limit) as m"
        ((count,),) = self._rows(sql, {**values, "limit": limit})
        return cast("int", count)

    def find(self, which: HeldFilter, limit: int, after: int = 0) -> list[HeldMessage]:
        """Return those that match above a seq, in order of seq."""
        where, values = self._where(which)
        columns = _MESSAGE.replace("{id}", self._speech.text_of_id)
        rows = self._rows(
            f"""select {columns} from {self._held}
                 where {where} and seq > :after order by seq limit :limit""",
            {**values, "after": after, "limit": limit},
        )
        return [HeldMessage(*row) for row in rows]

    def content(self, relay: str, seq: int) -> Record | None:
        """Return a held message whole."""
        headers = "headers::text" if self._speech.named else "headers"
        columns = _RECORD.replace("{id}", self._speech.text_of_id).replace("{headers}", headers)
        sql = f"select {columns} from {self._held} where relay = :relay and seq = :seq"
        rows = self._rows(sql, {"relay": relay, "seq": seq})
        return Record._make(rows[0]) if rows else None

    def _rows(self, sql: str, values: dict[str, object]) -> list[Any]:
        with self._reading() as connection:
            return list(connection.execute(self._speech.sql(sql), values).fetchall())

    def _where(self, which: HeldFilter) -> tuple[str, dict[str, object]]:
        conditions, values = ["relay = :relay"], dict[str, object](relay=which.relay)
        if set(which.states) != set(STATES):
            # Known words, written out so that partial indexes fit.
            states = [state for state in STATES if state in which.states]
            listed = ", ".join(f"'{state}'" for state in states)
            conditions.append(f"state in ({listed})" if states else "1 = 0")
            if "blocked" not in states:
                conditions.append("state <> 'blocked'")
        for name in ("topic", "key"):
            if (value := getattr(which, name)) is not None:
                conditions.append(f"{name} = :{name}")
                values[name] = value
        if which.id is not None:
            conditions.append(f"{self._speech.text_of_id} = :id")
            values["id"] = which.id
        return " and ".join(conditions), values

    # Doing

    def requeue(
        self, which: HeldFilter, limit: int, action: Action, after: int = 0
    ) -> tuple[int, int | None]:
        """Let messages be tried at once, as if for the first time."""
        where, values = self._where(which)
        with self._writing() as connection:
            seqs = self._pick(
                connection,
                f"""select seq from {self._held}
                     where {where} and state <> 'blocked' and seq > :after
                     order by seq limit :limit{{lock}}""",
                {**values, "after": after, "limit": limit},
            )
            self._execute(
                connection,
                f"""update {self._held}
                       set expires_at = case when state = 'expired' then null
                                             else expires_at end,
                           state = 'retrying', attempts = 0, fault = null,
                           next_attempt_at = {{now}}, held_at = {{now}}, changed_at = {{now}}
                     where relay = :relay and {_NOT_BLOCKED} and seq in ({_listed(seqs)})""",
                {"relay": which.relay},
            )
            if seqs:
                self._noting(connection, self._names, action, len(seqs))
        return len(seqs), (seqs[-1] if len(seqs) == limit else None)

    def discard(
        self, which: HeldFilter, limit: int, action: Action, before: int | None = None
    ) -> tuple[int, int | None]:
        """Delete messages, the last ones first; the next of their keys become due."""
        where, values = self._where(which)
        top = 2**63 - 1 if before is None else before
        with self._writing() as connection:
            self._lock(connection, which.relay)
            found = self._execute(
                connection,
                f"""select seq, {self._speech.text_of_id} from {self._held}
                     where {where} and seq < :top order by seq desc limit :limit""",
                {**values, "top": top, "limit": limit},
            ).fetchall()
            seqs = [seq for seq, _ in found]
            freed = self._delete(connection, which.relay, seqs)
            for lane, places in freed.items():
                self._promoting(connection, self._names, which.relay, lane, places)
            if found:
                self._note_removal(connection, action, seqs, [id_ for _, id_ in found])
        return len(seqs), (seqs[-1] if len(seqs) == limit else None)

    def edit(self, which: HeldMessage, relay: str, new: Edition, action: Action) -> bool:
        """Put another message in the place of one that is dead or expired, due at once."""
        moved = (new.topic, new.key) != (which.topic, which.key)
        with self._writing() as connection:
            self._lock(connection, relay)
            if not self._replace(connection, which, relay, new, moved=moved):
                return False
            if moved and which.key is not None:
                places = {(which.topic, which.key)}
                self._promoting(connection, self._names, relay, which.lane, places)
            what = {**action.what, "replaced_by": new.id, "topic": new.topic}
            told = replace(action, what=what)
            self._note_removal(connection, told, [which.seq], [which.id])
        return True

    def _replace(
        self, connection: Connection, which: HeldMessage, relay: str, new: Edition, *, moved: bool
    ) -> bool:
        # With another topic or key it has no order with what is there, and stands alone.
        alone = "blocks = :no, " if moved else ""
        changed = self._execute(
            connection,
            f"""update {self._held}
                   set id = :id, topic = :topic, key = :key, payload = :payload, type = :type,
                       content_type = :content_type, headers = :headers{self._speech.json},
                       expires_at = null, {alone}state = 'retrying', attempts = 0, fault = null,
                       error = null, next_attempt_at = {{now}}, held_at = {{now}},
                       changed_at = {{now}}
                 where relay = :relay and seq = :seq and {self._speech.text_of_id} = :old
                   and state in ('dead', 'expired')""",
            {**asdict(new), "relay": relay, "seq": which.seq, "old": which.id, "no": False},
        )
        return bool(changed.rowcount)

    def _lock(self, connection: Connection, relay: str) -> None:
        """Lock a relay name's cursors, as who holds messages does: none is held meanwhile."""
        self._execute(
            connection,
            f"""select epoch from {self._names["outbox_cursor"]}
                 where relay = :relay order by lane{{lock}}""",
            {"relay": relay},
        )

    def _delete(self, connection: Connection, relay: str, seqs: list[int]) -> dict[str, set[Place]]:
        """Delete messages; return topic and key of those that stopped their key, by lane."""
        these = f"relay = :relay and seq in ({_listed(seqs)})"
        heads = self._execute(
            connection,
            f"""select lane, topic, key from {self._held}
                 where {these} and blocks and {_NOT_BLOCKED}""",
            {"relay": relay},
        ).fetchall()
        self._execute(connection, f"delete from {self._held} where {these}", {"relay": relay})
        freed: dict[str, set[Place]] = {}
        for lane, *place in heads:
            freed.setdefault(lane, set()).add((place[0], place[1]))
        return freed

    def _pick(self, connection: Connection, sql: str, values: dict[str, object]) -> list[int]:
        return [seq for (seq,) in self._execute(connection, sql, values).fetchall()]

    def _note_removal(
        self, connection: Connection, action: Action, seqs: list[int], ids: list[str]
    ) -> None:
        """Note which messages of the log will never be sent as they are, for `verify`.

        By their ids as well, since numbers may be given out anew.
        """
        what = {**action.what, "seqs": seqs, "ids": ids}
        self._noting(connection, self._names, replace(action, what=what), len(seqs))

    def _execute(self, connection: Connection, sql: str, values: dict[str, object]) -> Any:
        return connection.execute(self._speech.sql(sql), values)

    def audit(self, limit: int) -> list[Audited]:
        """Return what operators did, the latest first, one for each command."""
        action = "action::text" if self._speech.named else "action"
        rows = self._rows(
            f"""select {action}, {{seconds min(at)}}, min(actor), min(source), min(command),
                       min(cast({self._speech.shown_what} as text)), sum(messages)
                  from {self._names["outbox_audit"]}
                 group by action order by max(id) desc limit :limit""",
            {"limit": limit},
        )
        return [
            Audited(action, at, actor, source, command, json.loads(what), int(messages))
            for action, at, actor, source, command, what, messages in rows
        ]


def _listed(seqs: list[int]) -> str:
    """Return numbers as SQL, for none a list that nothing is in."""
    return ", ".join(map(str, seqs)) or "-1"
