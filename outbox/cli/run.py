"""outbox-relay run"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from outbox.cli.logs import set_up_logging
from outbox.cli.options import database_options, kafka_option, setting, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from outbox.config.settings import Settings
    from outbox.relay.relay import Relay

EPILOG = """\b
Examples:
  outbox-relay run --database-url postgresql://localhost/shop -X bootstrap.servers=localhost:9092
  outbox-relay run --drain
  outbox-relay run --name audit --log-format json"""


@click.command(epilog=EPILOG)
@click.option("--drain", is_flag=True, help="Deliver what is committed now, then stop.")
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    help="How to write the log, on stderr.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to write into it.",
)
@kafka_option
@setting("drain_timeout")
@setting("lease")
@setting("poll_interval")
@setting("delivery")
@setting("name")
@database_options
def run(*, drain: bool, log_format: str, log_level: str, **flags: object) -> None:
    """Move messages from the log to Kafka until told to stop.

    Waits for servers that are away. SIGTERM and SIGINT let it see the acknowledgements of what is
    in flight, hand over and end; a second signal ends it at once.
    """
    from outbox.relay.collector import spare_the_collector

    settings = settings_from(flags)
    set_up_logging(log_format, log_level)
    relay = _relay(settings)
    spare_the_collector()
    stop = threading.Event()
    with _signals(stop):
        relay.run(stop, drain=drain)


def _relay(settings: Settings) -> Relay:
    """Wire a relay; what is wrong with the settings shows before anything is connected."""
    from outbox.publishers.kafka import KafkaPublisher
    from outbox.relay.relay import Relay
    from outbox.relay.settings import RelaySettings
    from outbox.store.opening import open_store

    store = open_store(
        settings.require_database(),
        settings.names,
        password_callback=settings.password_callback(),
    )
    return Relay(
        store,
        partial(KafkaPublisher, settings.kafka_properties()),
        RelaySettings(
            name=settings.name,
            poll_interval_s=settings.poll_interval,
            lease_s=settings.lease,
            drain_timeout_s=settings.drain_timeout,
            connect_timeout_s=settings.connect_timeout,
        ),
    )


@contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Let SIGTERM and SIGINT set `stop`, and the second of them end the process."""

    def handle(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            # Not sys.exit: whatever hangs now would hang in its clean-up as well.
            os._exit(128 + number)
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
