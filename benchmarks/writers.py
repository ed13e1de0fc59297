"""B6: writers at full speed with a relay running, as a ratio to the same writers without one.

pgbench writes a business row and a message in each transaction. Each of the two has a log that was
empty at its beginning.
"""

from __future__ import annotations

import argparse
import shlex

from benchmarks.pgbench import Writers
from benchmarks.program import Found, options, run
from benchmarks.relay_command import RelayCommand
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row

_UNIT = "transactions/s"
_WITHOUT = "the same writers and no relay"


def main() -> None:
    parser = options(
        __doc__,
        seconds=(float, 20.0, "how long the writers write each time"),
        repetitions=(int, 9, "how often with and without a relay"),
        clients=(int, 4, "writers"),
        relay_options=(str, "", "options of `outbox-relay run`, in one word"),
    )
    run("B6", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    given = shlex.split(arguments.relay_options)
    _speed(place, arguments, given)  # new servers are slow at first, Kafka's too
    found = [
        Repetition(
            baseline=_speed(place, arguments, None),
            ours=_speed(place, arguments, given),
        )
        for _ in range(arguments.repetitions)
    ]
    what = " ".join(["writers beside a relay", *given])
    return Found([Row("B6", what, _UNIT, _WITHOUT, found, Goal(0.90, "at least"))])


def _speed(place: Place, arguments: argparse.Namespace, relay: list[str] | None) -> float:
    place.renew()
    writers = Writers(place, arguments.clients)
    writers.prepare()
    if relay is None:
        return writers.run(arguments.seconds)
    with RelayCommand(place, *relay) as running:
        running.wait_until_it_holds_the_lane()
        return writers.run(arguments.seconds)


if __name__ == "__main__":
    main()
