"""B1: drain a backlog, as a ratio to the bare read-and-produce loop in the same run.

The bare loop reads the same rows with the same driver and hands them to librdkafka with the same
settings, the same headers and a delivery callback, and keeps no books at all: no cursor, no plan,
no lease, nothing is checked. It is the limit of a relay that is one Python process.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.program import PARTITIONS, Found, a_place, options, run
from outbox.bench.draining import (
    GOALS,
    KEYS,
    PAYLOAD_BYTES,
    bare_loop,
    drain_row,
    relay,
    speed,
)
from outbox.bench.place import Place

__all__ = ["KEYS", "PARTITIONS", "PAYLOAD_BYTES", "bare_loop", "main", "measure", "relay"]


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 300_000, "the backlog"),
        repetitions=(int, 9, "how often both are measured"),
    )
    parser.add_argument(
        "--delivery",
        choices=[*GOALS, "all"],
        default="all",
        help="which delivery of the relay's (default: %(default)s)",
    )
    run("B1", parser, _measure)


def _measure(place: Place, arguments: argparse.Namespace) -> Found:
    chosen = list(GOALS) if arguments.delivery == "all" else [arguments.delivery]
    return Found(
        [drain_row(place, arguments.messages, arguments.repetitions, each) for each in chosen]
    )


def measure(
    drain: Callable[[Place], None], database_url: str, bootstrap: str, messages: int
) -> float:
    """Return the messages a second of one drain, in a place of its own."""
    with a_place(database_url, bootstrap) as made:
        return speed(drain, made, messages)


if __name__ == "__main__":
    main()
