"""B8: the log after minutes of load, with a reporting transaction open all the time.

Writers write at a steady rate, a relay delivers and empties old slots. The transaction that is open
keeps vacuum from removing anything that died since it began. The retention is short, so that slots
take turns several times. The baseline of the size is what the log takes when it is as old as the
retention, so when it holds just what it has to.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg

from benchmarks.pgbench import Writers
from benchmarks.program import Found, options, run
from benchmarks.relay_command import RelayCommand
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row
from outbox.errors import OutboxError

_LOOK_EVERY_S = 1.0

_LOG = "outbox_message"


def main() -> None:
    parser = options(
        __doc__,
        minutes=(float, 30.0, "how long"),
        rate=(int, 500, "messages a second"),
        retention=(int, 240, "seconds that delivered messages are kept, 60 or more"),
        clients=(int, 2, "writers"),
    )
    run("B8", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    place.renew(retention_s=arguments.retention)
    writers = Writers(place, arguments.clients, arguments.rate)
    writers.prepare()
    seconds = arguments.minutes * 60
    with (
        RelayCommand(place) as relay,
        place.servers.connect() as report,
        place.servers.connect() as observer,
    ):
        relay.wait_until_it_holds_the_lane()
        _begin_report(report, place)
        seen = _Seen(place, observer, arguments.retention)
        with writers.running(seconds) as process:
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < seconds + 30:
                seen.look(time.monotonic() - began)
                time.sleep(_LOOK_EVERY_S)
        if process.returncode:
            raise OutboxError("pgbench failed")
        _still_open(report)
        time.sleep(_LOOK_EVERY_S)  # statistics come late
        seen.look(time.monotonic() - began)
    return _found(seen, arguments)


def _begin_report(connection: psycopg.Connection, place: Place) -> None:
    connection.execute("begin isolation level repeatable read")
    connection.execute(f'select count(*) from "{place.schema}".business')


def _still_open(connection: psycopg.Connection) -> None:
    if connection.info.transaction_status != psycopg.pq.TransactionStatus.INTRANS:
        raise OutboxError("the reporting transaction has ended: this is no result")
    connection.execute("select 1")


@dataclass
class _Seen:
    """What the tables looked like over the time."""

    place: Place
    connection: psycopg.Connection
    retention_s: float
    dead: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    bytes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    at_retention: int | None = None
    most_after: int = 0
    turns: int = 0
    _slot: int | None = None

    def look(self, elapsed_s: float) -> None:
        """Take the present figures."""
        query: LiteralString = """
            select relname, n_dead_tup, pg_total_relation_size(relid) from pg_stat_user_tables
             where schemaname = %s and relname like 'outbox%%'"""
        log = 0
        for name, dead, size in self.connection.execute(query, (self.place.schema,)):
            self.dead[name] = max(self.dead[name], dead)
            self.bytes[name] = max(self.bytes[name], size)
            log += size if name.startswith(_LOG) else 0
        if elapsed_s >= self.retention_s:
            if self.at_retention is None:
                self.at_retention = log
            self.most_after = max(self.most_after, log)
        self._count_turns()

    def _count_turns(self) -> None:
        function = self.place.names["outbox_slot"]
        slot = self.connection.execute(f"select {function}()").fetchone()
        if slot is not None and slot[0] != self._slot:
            self.turns += self._slot is not None
            self._slot = slot[0]


def _found(seen: _Seen, arguments: argparse.Namespace) -> Found:
    time_ = f"{arguments.minutes:g} min at {arguments.rate:,}/s"
    dead = sum(count for name, count in seen.dead.items() if name.startswith(_LOG))
    rows = [
        Row(
            "B8",
            f"dead tuples in the log, {time_}",
            "tuples",
            None,
            [Repetition(float(dead))],
            Goal(0.0, "at most", "ours"),
        )
    ]
    if seen.at_retention is not None:
        size = Repetition(seen.most_after / 1e6, seen.at_retention / 1e6)
        than = "the log when it is as old as the retention"
        most = Goal(2.0, "at most")
        rows.append(Row("B8", f"largest log, {time_}", "MB", than, [size], most))
    others = {name: count for name, count in sorted(seen.dead.items()) if _LOG not in name}
    sizes = {name: size for name, size in sorted(seen.bytes.items()) if _LOG not in name}
    return Found(
        rows,
        {"turns_of_slots": seen.turns, "dead_in_other_tables": others, "bytes_of_those": sizes},
        None if len(rows) > 1 else "the size: it lasted no longer than the retention",
    )


if __name__ == "__main__":
    main()
