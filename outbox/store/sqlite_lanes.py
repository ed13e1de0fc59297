"""Lanes on SQLite: the order of seq is the order of commits, so a change of lanes is a number.

Messages up to it go by the lanes of before, those above by the lanes of after.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass

from outbox.errors import ConfigurationError, LogInconsistent
from outbox.names import Names
from outbox.store.base import Lease
from outbox.store.lanes import DEFAULT_LANE, Lane, Topology, same_streams

_FOR_EVER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Era:
    """The lanes that hold for messages above `after_seq`, until those of the next."""

    after_seq: int
    lanes: Topology


def condition(lanes: Topology, stream: str) -> str:
    """Return the SQL condition of a stream's rows; names of lanes were checked when declared."""
    if stream not in lanes.streams:
        return "0"
    selection = lanes.selection(stream)
    if selection.lane is not None:
        return f"lane = '{selection.lane}'"
    if not selection.others:
        return "1"
    others = ", ".join(f"'{lane}'" for lane in selection.others)
    return f"(lane is null or lane not in ({others}))"


def belonging(eras: Sequence[Era], stream: str, after: int) -> str:
    """Return the SQL condition of a stream's rows above `after`, era by era."""
    ends = [*(era.after_seq for era in eras[1:]), _FOR_EVER]
    return " or ".join(
        f"(seq > {era.after_seq} and seq <= {end} and {condition(era.lanes, stream)})"
        for era, end in zip(eras, ends, strict=True)
        if end > after
    )


def read_eras(connection: sqlite3.Connection, names: Names) -> list[Era]:
    """Return the lanes there were, the present ones last."""
    rows = connection.execute(
        f"""select generation, after_seq, lane, priority, shards from {names["outbox_lane"]}
             order by generation, lane"""
    ).fetchall()
    found: dict[tuple[int, int], list[Lane]] = {}
    for generation, after_seq, lane, priority, shards in rows:
        found.setdefault((generation, after_seq), []).append(Lane(lane, priority, shards))
    if not found:
        raise LogInconsistent(
            "there are no lanes: rows of outbox_lane were deleted. Put back the one of `default`:"
            " insert into outbox_lane (generation, lane) values (0, 'default')"
        )
    return [
        Era(after_seq, Topology(generation, lanes))
        for (generation, after_seq), lanes in found.items()
    ]


def change(
    connection: sqlite3.Connection, names: Names, wanted: Sequence[Lane], last_seq: int
) -> None:
    """Make these the lanes of the log, within the caller's transaction."""
    if sharded := [lane.name for lane in wanted if lane.shards > 1]:
        raise ConfigurationError(
            f"lane {sharded[0]!r} cannot have shards on SQLite, which has one writer at a time:"
            " nothing would be gained"
        )
    present = read_eras(connection, names)[-1].lanes
    if same_streams(present.lanes, wanted):
        connection.executemany(
            f"update {names['outbox_lane']} set priority = ? where generation = ? and lane = ?",
            [(lane.priority, present.generation, lane.name) for lane in wanted],
        )
        return
    later = Topology(present.generation + 1, wanted)
    connection.executemany(
        f"""insert into {names["outbox_lane"]} (generation, lane, priority, shards, after_seq)
            values (?, ?, ?, ?, ?)""",
        [(later.generation, lane.name, lane.priority, 1, last_seq) for lane in wanted],
    )
    # A lane that was removed and is declared again may have a cursor still, which goes on.
    connection.executemany(
        f"""insert or ignore into {names["outbox_cursor"]}
                   (relay, lane, after_seq, epoch, cluster_id, delivery, starts_at)
            select relay, ?, ?, ?, max(cluster_id), max(delivery), max(starts_at)
              from {names["outbox_cursor"]} group by relay""",
        [
            (stream, last_seq, time.time_ns() // 10**6)
            for stream in later.streams
            if stream not in present.streams
        ],
    )


def take_over_held(
    connection: sqlite3.Connection, names: Names, lease: Lease, earlier: Topology, later: Topology
) -> None:
    """Let what is held of other lanes go along to a lane that takes their keys over, so that later
    messages of these keys still wait for it.

    Its predecessors have come to their ends and hold no more. Whoever has lost the lease moves
    nothing: lanes may have changed again. Only one message stops a key: where two would, the later
    one waits behind the other.
    """
    held, log, cursor = names["outbox_held"], names["outbox_message"], names["outbox_cursor"]
    rows = f"""h.relay = :relay and h.lane = :source and exists (
        select 1 from {cursor} where relay = :relay and lane = :lane and epoch = :epoch)"""
    if lease.lane != DEFAULT_LANE:  # which has all that is held of a lane that is gone
        rows += f" and exists (select 1 from {log} as m where m.seq = h.seq and m.lane = :lane)"
    second = f"""(h.blocks and h.state <> 'blocked' and exists (
        select 1 from {held} as x
         where x.relay = h.relay and x.lane = :lane and x.topic = h.topic and x.key = h.key
           and x.blocks and x.state <> 'blocked'))"""
    for source in later.predecessors(earlier, lease.lane):
        values = {"relay": lease.relay, "lane": lease.lane, "epoch": lease.epoch, "source": source}
        (any_held,) = connection.execute(
            f"select exists (select 1 from {held} as h where {rows})", values
        ).fetchone()
        if any_held:
            connection.execute(
                f"""update {held} as h
                       set lane = :lane,
                           state = case when {second} then 'blocked' else h.state end,
                           next_attempt_at = case when {second} then null
                                                  else h.next_attempt_at end
                     where {rows}""",
                values,
            )


def have_come_to(
    connection: sqlite3.Connection, names: Names, relay: str, streams: Sequence[str], seq: int
) -> bool:
    """Return whether streams have delivered what was theirs up to a message."""
    marks = ", ".join("?" * len(streams))
    (behind,) = connection.execute(
        f"""select exists (select 1 from {names["outbox_cursor"]}
                            where relay = ? and lane in ({marks}) and after_seq < ?)""",
        (relay, *streams, seq),
    ).fetchone()
    return not behind
