"""B4: latency, from just before the INSERT of a message to when a consumer's poll returns it.

Messages are written at a steady rate, one in each transaction, and moved by an `outbox-relay run`
of its own. The same load is then put on Watermill's forwarder, tuned, in the same run. Then lone
messages are written to an idle relay.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from benchmarks.program import Found, options, run
from benchmarks.relay_command import RelayCommand
from outbox.bench.latency import Load, OurPipeline, Pipeline, Seen, of_lone_messages, under_load
from outbox.bench.place import Place
from outbox.bench.result import Goal, Repetition, Row, percentile

#: A relay that is idle looks this often; what comes on top is the way itself.
POLL_INTERVAL_MS = 50.0
ON_TOP_MS = 5.0

#: At this rate, in messages a second, the goals hold.
JUDGED_RATE = 1_000

Start = Callable[[str, str], AbstractContextManager[Pipeline]]


def main() -> None:
    parser = options(
        __doc__,
        seconds=(float, 30.0, "how long each load lasts, after a warm-up of two seconds"),
        repetitions=(int, 3, "how often each load is put on each"),
        lone=(int, 100, "messages to an idle relay"),
    )
    parser.add_argument(
        "--rates", type=int, nargs="+", default=[200, 1000], help="messages a second"
    )
    parser.add_argument("--without-rival", action="store_true", help="leave Watermill out")
    run("B4", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    start, why_not = (None, None) if arguments.without_rival else _rival()
    place.renew()
    rows = [
        row
        for rate in arguments.rates
        for row in _rows(place, Load(rate, arguments.seconds), arguments, start)
    ]
    return Found([*rows, _idle(place, arguments.lone)], unavailable=why_not)


def _rival() -> tuple[Start | None, str | None]:
    """Return what starts the rival, or why it cannot be had."""
    try:
        from benchmarks.rivals import watermill
    except ImportError as absent:
        return None, str(absent)
    reason: str | None = watermill.available()
    return (None, reason) if reason else (watermill.latency_pipeline, None)


def _rows(
    place: Place, load: Load, arguments: argparse.Namespace, start: Start | None
) -> list[Row]:
    pairs = [
        (_ours(place, load), _theirs(place, load, arguments, start))
        for _ in range(arguments.repetitions)
    ]
    at = f"at {load.rate:,}/s"
    than = "Watermill's forwarder, tuned" if start else None
    most = Goal(1.0, "at most") if start and load.rate == JUDGED_RATE else None

    def row(what: str, unit: str, of: Callable[[Seen], float | None]) -> list[Row]:
        found = _repetitions(pairs, of)
        return [Row("B4", f"{what} {at}", unit, than, found, most)] if found else []

    return [
        *row("latency p50", "ms", lambda seen: seen.p50_ms),
        *row("latency p99", "ms", lambda seen: seen.p99_ms),
        *row("processor", "cores", lambda seen: seen.cores),
    ]


def _repetitions(
    pairs: Sequence[tuple[Seen, Seen | None]], of: Callable[[Seen], float | None]
) -> list[Repetition]:
    return [
        Repetition(
            ours, None if theirs is None else of(theirs), {"written_per_second": round(seen.rate)}
        )
        for seen, theirs in pairs
        if (ours := of(seen)) is not None
    ]


def _ours(place: Place, load: Load) -> Seen:
    with RelayCommand(place) as relay:
        relay.wait_until_it_holds_the_lane()
        return under_load(OurPipeline(place, relay.pids, prepared=True), place.broker, load)


def _theirs(
    place: Place, load: Load, arguments: argparse.Namespace, start: Start | None
) -> Seen | None:
    if start is None:
        return None
    with start(arguments.database_url, arguments.bootstrap) as pipeline:
        return under_load(pipeline, place.broker, load)


def _idle(place: Place, count: int) -> Row:
    with RelayCommand(place) as relay:
        relay.wait_until_it_holds_the_lane()
        took = of_lone_messages(OurPipeline(place, relay.pids, prepared=True), place.broker, count)
    return Row(
        "B4",
        f"lone message to an idle relay, p99 of {count}",
        "ms",
        None,
        [Repetition(percentile(took, 0.99), None, {"p50_ms": percentile(took, 0.5)})],
        Goal(POLL_INTERVAL_MS + ON_TOP_MS, "at most", "ours"),
    )


if __name__ == "__main__":
    main()
