"""B10: what a relay and its PostgreSQL session cost with nothing to do, as a share of a core."""

from __future__ import annotations

import argparse
import time

from benchmarks.program import Found, options, run
from benchmarks.relay_command import RelayCommand
from outbox.bench.place import Place
from outbox.bench.process import cpu_seconds
from outbox.bench.result import Goal, Repetition, Row
from outbox.errors import OutboxError

#: Before it counts: a relay looks often right after its start.
_SETTLING_S = 3.0


def main() -> None:
    parser = options(
        __doc__,
        seconds=(float, 60.0, "how long each time"),
        repetitions=(int, 3, "how often"),
        retained=(int, 10_000, "delivered messages in the log"),
    )
    run("B10", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    place.renew()
    with RelayCommand(place) as relay:
        relay.wait_until_it_holds_the_lane()
        _deliver(place, relay, arguments.retained)
        time.sleep(_SETTLING_S)
        pids = relay.pids()
        if len(pids) < 2:
            raise OutboxError("the database is on another machine: its processes cannot be seen")
        found = [_idle(pids, arguments.seconds) for _ in range(arguments.repetitions)]
    goal = Goal(0.02, "at most", "ours")
    return Found([Row("B10", "an idle relay and its session", "cores", None, found, goal)])


def _deliver(place: Place, relay: RelayCommand, messages: int) -> None:
    from outbox.bench.broker import arrived
    from outbox.bench.draining import fill

    with place.broker.reading(place.topic) as consumer:
        fill(place, messages)
        if arrived(consumer, messages) != messages:
            raise OutboxError(f"not all messages arrived; the relay said: {relay.said()}")


def _idle(pids: list[int], seconds: float) -> Repetition:
    began = time.perf_counter()
    before = [cpu_seconds([pid]) or 0.0 for pid in pids]
    time.sleep(seconds)
    took = time.perf_counter() - began
    shares = [
        ((cpu_seconds([pid]) or 0.0) - used) / took for pid, used in zip(pids, before, strict=True)
    ]
    return Repetition(sum(shares), None, {"relay": shares[0], "session": sum(shares[1:])})


if __name__ == "__main__":
    main()
