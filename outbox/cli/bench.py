"""outbox-relay bench"""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from outbox.cli.options import config_option, json_option, kafka_option, setting, settings_from
from outbox.cli.output import print_json, print_table, say
from outbox.cli.waiting import loaded_database, patiently
from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from outbox.bench.place import Servers
    from outbox.bench.result import Row
    from outbox.bench.short import Findings, Part
    from outbox.config.settings import Settings

EPILOG = """\b
Examples:
  outbox-relay bench -X bootstrap.servers=localhost:9092
  outbox-relay bench --only drain --messages 300000 --delivery exactly-once
  outbox-relay bench --only latency --rate 1000 --json"""


@click.command(short_help="Measure on your own database and broker.", epilog=EPILOG)
@click.option(
    "--only",
    type=click.Choice(["drain", "latency", "add"]),
    multiple=True,
    help="One part only. Repeatable.",
)
@click.option(
    "--messages",
    type=click.IntRange(min=1),
    default=50_000,
    show_default=True,
    help="The backlog to drain.",
)
@click.option(
    "--repetitions",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="How often each is measured.",
)
@click.option(
    "--rate",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="Messages a second, for the latency.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    help="How long each load for the latency lasts, after a warm-up.",
)
@click.option(
    "--partitions",
    type=click.IntRange(1, 1000),
    default=6,
    show_default=True,
    help="Partitions of the topic.",
)
@click.option(
    "--replication",
    type=click.IntRange(-1, 100),
    default=-1,
    help="Replicas of the topic. Default: the broker's.",
)
@json_option
@kafka_option
@setting("delivery")
@setting("connect_timeout")
@setting("database_password_callback")
@setting("database_url")
@config_option
def bench(
    *,
    only: tuple[Part, ...],
    messages: int,
    repetitions: int,
    rate: int,
    seconds: float,
    partitions: int,
    replication: int,
    as_json: bool,
    **flags: object,
) -> None:
    """Measure the relay, its latency and the cost of add, each against the least it could be.

    On your own PostgreSQL and Kafka, in a schema and a topic with random names that are made for it
    and removed, also on Ctrl-C and SIGTERM. What a run left that was killed, the next one removes.
    It needs the right to create a schema and a topic, and puts load on both servers for a minute.

    Each figure is a ratio between two things measured in turn: the relay and a bare loop that reads
    the same rows and produces them; a message by the outbox and one that the application sends
    itself after its commit; add and a bare INSERT of the same row in the same transaction.
    """
    from outbox.bench.short import PARTS, Sizes, measure

    settings = settings_from(flags)
    servers = _servers(settings)
    patiently(lambda: servers.connect().close(), settings.connect_timeout)
    sizes = Sizes(messages, repetitions, rate, seconds, partitions, replication)
    with _ended_by_sigterm():
        parts = [part for part in PARTS if not only or part in only]
        found = measure(servers, sizes, parts, settings.delivery, say)
    _print(found, as_json=as_json)


def _servers(settings: Settings) -> Servers:
    from outbox.bench.place import Servers
    from outbox.relay.collector import spare_the_collector

    url = loaded_database(settings)
    if url.dialect == "sqlite":
        raise ConfigurationError(
            "bench measures PostgreSQL; a SQLite file has one writer at a time and no server to "
            "measure. Give a PostgreSQL database with --database-url"
        )
    spare_the_collector()  # as `outbox-relay run` does; the baselines gain by it too
    return Servers(
        url,
        settings.kafka_properties(),
        settings.password_callback(),
        timeout_s=settings.connect_timeout,
    )


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: interrupt, so that what was made is removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print(found: Findings, *, as_json: bool) -> None:
    if as_json:
        rows = [row.as_data() for row in found.rows]
        print_json("outbox.bench/1", conditions=found.conditions, rows=rows)
        return
    for name, value in found.conditions.items():
        click.echo(f"{name}: {value}")
    click.echo()
    print_table(("WHAT", "OURS", "BASELINE", "UNIT", "RATIO"), [_cells(row) for row in found.rows])
    click.echo()
    for than in dict.fromkeys(row.than for row in found.rows):
        click.echo(
            f"{', '.join(row.what for row in found.rows if row.than == than)}: against {than}"
        )


def _cells(row: Row) -> tuple[str, ...]:
    from outbox.bench.result import figure

    return (row.what, figure(row.ours), figure(row.baseline), row.unit, figure(row.ratio))
