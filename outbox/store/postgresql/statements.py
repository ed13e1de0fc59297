"""The SQL with which a stream of the log is read, for each generation of its lanes."""

from __future__ import annotations

from collections.abc import Sequence

from outbox.names import Names
from outbox.record import END
from outbox.store.lanes import Topology
from outbox.store.postgresql.lanes import condition
from outbox.store.postgresql.sequence import LAST_VALUE
from outbox.store.postgresql.session import ABANDONED, BY_INDEX, PREPARED_BY_INDEX

#: Names of prepared statements.
SEQUENCE, SNAPSHOT = "outbox_sequence", "outbox_snapshot"

#: By the database's clock when it began to read. Null where the message does not expire.
_EXPIRED = "expires_at <= statement_timestamp()"
_COLUMNS = (
    "seq, id::text, topic, key, payload, type, content_type, headers::text as headers, "
    f"traceparent, tracestate, {_EXPIRED} as expired"
)
_SELECTED = (
    "seq, id, topic, key, payload, type, content_type, headers, traceparent, tracestate, expired"
)
#: What a message weighs, in bytes. octet_length does not fetch a payload that is stored apart.
_WEIGHT = "coalesce(octet_length(payload), 0) + coalesce(pg_column_size(headers), 0) + 200"

#: Of a heavy message only its weight, as the total, which is 0 for all others. What a server
#: takes out of a row only to leave it there costs it nothing.
_LIGHT_COLUMNS = (
    "seq, id::text, topic, key, case when weight <= heavy then payload end, type, content_type, "
    "case when weight <= heavy then headers::text end, traceparent, tracestate, expired, "
    "case when weight <= heavy then 0 else weight end"
)
_LIGHT_FIELDS = (
    "seq, id, topic, key, payload, type, content_type, headers, traceparent, tracestate, "
    f"{_EXPIRED} as expired, %(heavy)s::bigint as heavy, {_WEIGHT} as weight"
)


class StreamLanes:
    """What the lanes of the log mean for one stream, generation by generation."""

    def __init__(self, names: Names, stream: str, topologies: Sequence[Topology]) -> None:
        self._names = names
        self._stream = stream
        self._topologies = {topology.generation: topology for topology in topologies}
        self._present = topologies[-1]
        self._statements: dict[int, Statements] = {}

    @property
    def generation(self) -> int:
        """Return the present generation."""
        return self._present.generation

    @property
    def goes_on(self) -> bool:
        """Return whether the stream is one of the present lanes."""
        return self._stream in self._present.streams

    @property
    def has_everything(self) -> bool:
        """Return whether every message of the log belongs to this stream now."""
        return self.goes_on and self._present.selection(self._stream).is_everything

    def predecessors(self, generation: int) -> tuple[str, ...]:
        """Return the streams that must have come to a generation before this one goes into it."""
        earlier = self._topologies.get(generation - 1)
        if earlier is None:
            return ()
        return self._topologies[generation].predecessors(earlier, self._stream)

    def around(self, generation: int) -> tuple[Topology, Topology]:
        """Return the lanes of the generation before one, and of itself."""
        return self._topologies[generation - 1], self._topologies[generation]

    def statements(self, generation: int) -> Statements:
        """Return the SQL that reads what belongs to the stream in a generation.

        A plan in which a stream begins is of a generation that does not know it, and is empty.
        """
        if generation not in self._statements:
            topology = self._topologies[generation]
            known = self._stream in topology.streams
            rows = condition(topology.selection(self._stream)) if known else "false"
            self._statements[generation] = Statements(self._names, rows)
        return self._statements[generation]


class Statements:
    """The SQL of a reader, rendered once."""

    def __init__(self, names: Names, condition: str = "") -> None:
        """`condition`: of the rows of a stream; empty where it has all of them."""
        log = names["outbox_message"]
        ours = f"and {condition}" if condition else ""
        sequence = names["outbox_message_seq"]
        begin = f"""
            begin isolation level read committed;
            set local synchronous_commit = on;
            {ABANDONED}"""
        self.sequence = f"""
            select {LAST_VALUE}, seqcache, pg_is_in_recovery()
              from pg_sequence where seqrelid = '{sequence}'::regclass"""
        self.snapshot = f"""
            select pg_current_snapshot()::text,
                   (select max(generation) from {names["outbox_lane"]})"""
        self.look = f"{begin}; {BY_INDEX}; {self.sequence}; {self.snapshot}"
        #: The same where both are prepared, by these names.
        self.prepared_look = f"{begin}; {PREPARED_BY_INDEX}; execute {SEQUENCE}; execute {SNAPSHOT}"
        # "Not visible in xmax:xmax:" is xid >= xmax, written so that no index can take it and the
        # planner is left with the one on seq.
        fresh = f"""
              from {log}
             where seq > %(after)s::bigint
               and not pg_visible_in_snapshot(xid, %(before)s::pg_snapshot)
               and pg_visible_in_snapshot(xid, %(target)s::pg_snapshot) {ours}
             order by seq limit %(rows)s::bigint"""
        self.fresh = self._bounded(f"select {_COLUMNS}, {_WEIGHT} as weight {fresh}")
        # The running total of the bound costs the database more than the reading does. As long as
        # messages are so light that a page of them cannot exceed the bound, it is not asked for.
        self.light = (
            f"select {_LIGHT_COLUMNS} from (select {_LIGHT_FIELDS} {fresh}) as m order by seq"
        )
        # Compared as rows, so that only the index on (xid, seq) fits: an equality on xid and an
        # order by seq would let the planner walk the whole log by seq.
        self.late = self._bounded(
            f"""select m.* from unnest(%(ids)s::text[]::xid8[]) as late (id)
                 cross join lateral (
                    select {_COLUMNS}, {_WEIGHT} as weight from {log}
                     where (xid, seq) > (late.id, %(after)s::bigint)
                       and (xid, seq) <= (late.id, {END}) {ours}
                     order by xid, seq limit %(rows)s::bigint) as m
                 order by seq limit %(rows)s::bigint"""
        )
        self.save = f"""
            insert into {names["outbox_plan"]}
                   (relay, lane, plan_no, epoch, last, floor, target, target_floor, next_floor,
                    generation)
            select relay, lane, %(no)s::bigint, epoch, %(last)s::pg_snapshot, %(floor)s::bigint,
                   %(target)s::pg_snapshot, %(target_floor)s::bigint, %(next_floor)s::bigint,
                   %(generation)s::bigint
              from {names["outbox_cursor"]}
             where relay = %(relay)s and lane = %(lane)s and epoch = %(epoch)s::bigint
               and exists (select from {names["outbox_plan"]} as p
                            where p.relay = %(relay)s and p.lane = %(lane)s
                              and p.plan_no = %(no)s::bigint - 1
                              and p.target::text = %(last)s::pg_snapshot::text)
               for update
            returning token::text"""

    @staticmethod
    def _bounded(select: str) -> str:
        """Bound a selection by weight as well: the row that crosses the bound is the last."""
        return f"""
            select {_SELECTED}, total from (
                select m.*, sum(weight) over (order by seq rows unbounded preceding) as total
                  from ({select}) as m) as w
             where total - weight < %(bytes)s::bigint order by seq"""
