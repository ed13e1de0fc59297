"""The outline of a benchmark: its options, a place on the servers, its report."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.conditions import conditions, publish, servers
from outbox.bench.place import Place, Servers, place
from outbox.bench.result import Row
from outbox.database import DatabaseUrl
from outbox.errors import OutboxError
from outbox.relay.collector import spare_the_collector

PARTITIONS = 6


@dataclass
class Found:
    """What a benchmark found. `figures`: what is worth knowing and has no goal."""

    rows: Sequence[Row]
    figures: Mapping[str, object] = field(default_factory=dict)
    unavailable: str | None = None


Measure = Callable[[Place, argparse.Namespace], Found]


def options(doc: str | None, **defaults: tuple[type, object, str]) -> argparse.ArgumentParser:
    """Return a parser: for each option its type, its default, and what it means."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, (kind, default, help_) in defaults.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(
            flag, type=kind, default=default, help=f"{help_} (default: %(default)s)"
        )
    parser.add_argument("--json", metavar="FILE", help="write the result here as well")
    return parser


def run(id_: str, parser: argparse.ArgumentParser, measure: Measure) -> None:
    """Measure on servers of our own or those that are given, and report."""
    arguments = parser.parse_args()
    spare_the_collector()  # as `outbox-relay run` does; baselines gain by it too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with servers() as (url, bootstrap), a_place(url, bootstrap) as made:
            told = {name: value for name, value in vars(arguments).items() if name != "json"}
            arguments.database_url, arguments.bootstrap = url, bootstrap
            found = measure(made, arguments)
            publish(
                id_,
                conditions(url, bootstrap, **told, **made.broker.topic_conditions(made.topic)),
                found.rows,
                arguments.json,
                figures=found.figures,
                unavailable=found.unavailable,
            )
    except OutboxError as error:
        raise SystemExit(f"error: {error}") from error


@contextmanager
def a_place(url: str, bootstrap: str) -> Iterator[Place]:
    """Yield a schema and a topic of our own, which nothing else looks at."""
    there = Servers(DatabaseUrl.parse(url), {"bootstrap.servers": bootstrap})
    with place(there, PARTITIONS, print) as made:
        yield made
