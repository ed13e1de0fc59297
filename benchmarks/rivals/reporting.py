"""Drain by a rival and by ours in turn, and report the ratio in the shape that all share."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.conditions import conditions, publish
from benchmarks.program import PARTITIONS, a_place
from benchmarks.rivals import arrivals
from benchmarks.rivals.arrivals import Drained
from benchmarks.rivals.fetching import RivalUnavailable
from benchmarks.rivals.servers import servers
from outbox.bench.draining import KEYS, PAYLOAD_BYTES, fill, relay
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row
from outbox.relay.collector import spare_the_collector

Measure = Callable[[], Drained]


@dataclass(frozen=True)
class Drain:
    """A benchmark against one rival. `start` gets database, broker and the number of messages."""

    id: str
    rival: str
    goal: float | None
    start: Callable[[str, str, int], AbstractContextManager[Measure]]
    settings: Mapping[str, object]
    """Versions and settings of the rival, for the report."""


def run(drain: Drain, arguments: argparse.Namespace) -> None:
    """Measure and report. A rival that cannot be had is reported, and no error."""
    spare_the_collector()  # as `outbox-relay run` does
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with servers() as (url, bootstrap):
        found = conditions(
            url,
            bootstrap,
            payload_bytes=PAYLOAD_BYTES,
            keys=KEYS,
            partitions=PARTITIONS,
            **{
                "messages": arguments.messages,
                "repetitions": arguments.repetitions,
                **drain.settings,
            },
        )
        rows, why_not = _measured(drain, url, bootstrap, arguments)
    publish(drain.id, found, rows, arguments.json, unavailable=why_not)


def _measured(
    drain: Drain, url: str, bootstrap: str, arguments: argparse.Namespace
) -> tuple[list[Row], str | None]:
    try:
        with (
            drain.start(url, bootstrap, arguments.messages) as rival,
            a_place(url, bootstrap) as place,
        ):
            turns = [
                _turn(number, rival, place, arguments.messages)
                for number in range(1, arguments.repetitions + 1)
            ]
    except RivalUnavailable as absent:
        return [], str(absent)
    goal = None if drain.goal is None else Goal(drain.goal, "at least")
    return [Row(drain.id, "drain", "messages/s", drain.rival, turns, goal)], None


def _turn(number: int, rival: Measure, place: Place, messages: int) -> Repetition:
    theirs, us = rival(), ours(place, messages)
    seen = {
        "our_cpu_us": us.cpu_us,
        "their_cpu_us": theirs.cpu_us,
        "their_memory_mib": theirs.memory_mib,
    }
    # To stderr as they come: a run takes minutes, and may be ended before the report.
    print(
        f"repetition {number}: {theirs.per_second:,.0f}, ours {us.per_second:,.0f}", file=sys.stderr
    )
    known = {name: value for name, value in seen.items() if value is not None}
    return Repetition(us.per_second, theirs.per_second, known)


def ours(place: Place, messages: int) -> Drained:
    """Return how fast our relay drains, from the first statement to the last answer."""
    place.renew()
    fill(place, messages)
    bootstrap = str(place.servers.kafka["bootstrap.servers"])
    with arrivals.counter(place.topic, bootstrap) as count:
        before = count()
        used, began = time.process_time(), time.perf_counter()
        relay(place)
        elapsed, used = time.perf_counter() - began, time.process_time() - used
        arrived = count() - before
    if arrived != messages:
        raise SystemExit(f"{arrived} messages arrived instead of {messages}: this is no result")
    return Drained(messages / elapsed, used * 1e6 / messages)
