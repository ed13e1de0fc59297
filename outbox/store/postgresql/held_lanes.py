"""What is held goes along when lanes change: later messages of its key must still wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.names import Names
from outbox.schema.streams import move_held
from outbox.store.base import Lease
from outbox.store.held import declared_lane
from outbox.store.lanes import DEFAULT_LANE, Topology
from outbox.store.postgresql.lanes import condition

if TYPE_CHECKING:
    import psycopg


def take_over_held(
    connection: psycopg.Connection,
    names: Names,
    lease: Lease,
    earlier: Topology,
    later: Topology,
) -> None:
    """Move what is held of other lanes to the lane of a stream that takes their keys over.

    Its predecessors have come to their ends and hold no more. Whoever has lost the lease moves
    nothing: lanes may have changed again.
    """
    lane = declared_lane(lease.lane)
    predecessors = {declared_lane(each) for each in later.predecessors(earlier, lease.lane)}
    for source in sorted(predecessors - {lane}):
        connection.execute(
            move_held(names, lane, f"h.lane = '{source}' and {_belongs(names, lease, later)}"),
            {"relay": lease.relay, "stream": lease.lane, "epoch": lease.epoch},
        )


def _belongs(names: Names, lease: Lease, later: Topology) -> str:
    """Return the condition of held rows that are this stream's from now on.

    Their own lane says who holds them; which one the message names is in the log alone.
    """
    ours = f"""h.relay = %(relay)s and exists (
        select from {names["outbox_cursor"]} as c
         where c.relay = %(relay)s and c.lane = %(stream)s and c.epoch = %(epoch)s)"""
    if declared_lane(lease.lane) == DEFAULT_LANE:  # has all that is held of a lane that is gone
        return ours
    rows = condition(later.selection(lease.lane), "m")
    return f"""{ours} and exists (
        select from {names["outbox_message"]} as m where m.seq = h.seq and {rows})"""
