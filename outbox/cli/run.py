"""outbox-relay run"""

from __future__ import annotations

import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING

import click

from outbox.cli.exit_codes import CHECK_FAILED
from outbox.cli.logs import set_up_logging
from outbox.cli.options import database_options, kafka_option, log_options, setting, settings_from
from outbox.cli.stopping import stopped_by_signals

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.config.settings import Settings
    from outbox.metrics.monitor import RelayMonitor
    from outbox.publishers.base import Publisher
    from outbox.relay.observer import Observer
    from outbox.relay.relay import Relay
    from outbox.relay.waking import Waker

logger = logging.getLogger("outbox.relay")

#: A database that is merely busy is given as long to answer, in seconds, however short the lease.
_LEAST_SILENCE_S = 5.0

EPILOG = """\b
Examples:
  outbox-relay run --database-url postgresql://localhost/shop -X bootstrap.servers=localhost:9092
  outbox-relay run --drain
  outbox-relay run --http-port 9464
  outbox-relay run --name audit --log-format json"""


@click.command(epilog=EPILOG)
@click.option("--drain", is_flag=True, help="Deliver what is committed now, then stop.")
@log_options
@kafka_option
@setting("cloudevents_source")
@setting("cloudevents")
@setting("stall_timeout")
@setting("http_port")
@setting("http_host")
@setting("drain_timeout")
@setting("max_bytes_per_second")
@setting("max_messages_per_second")
@setting("lease")
@setting("wake_up")
@setting("poll_interval")
@setting("delivery")
@setting("name")
@database_options
@click.pass_context
def run(
    ctx: click.Context, /, *, drain: bool, log_format: str, log_level: str, **flags: object
) -> None:
    """Move messages from the log to Kafka until told to stop.

    Waits for servers that are away. SIGTERM and SIGINT let it see the acknowledgements of what is
    in flight, hand over and end; a second signal ends it at once.

    With --http-port it answers /livez, /readyz, /healthz and /metrics. Where
    OTEL_EXPORTER_OTLP_ENDPOINT is set it exports a span for each message of a sampled trace.
    """
    from outbox.cli.waking import make_waker
    from outbox.cli.watching import make_monitor, watched
    from outbox.relay.collector import spare_the_collector
    from outbox.tracing_export import exported_spans

    settings = settings_from(flags)
    set_up_logging(log_format, log_level)
    monitor = make_monitor(settings)
    waker = make_waker(settings, drain=drain)
    relay = _relay(settings, monitor, waker)
    spare_the_collector()
    stop = threading.Event()
    with (
        stopped_by_signals(stop),
        exported_spans(os.environ),
        watched(settings, monitor, stop),
        waker,
    ):
        relay.run(stop, drain=drain)
    _say_what_was_done(monitor)
    is_held = drain and _says_what_is_held(settings)
    if _says_what_is_paused(relay) or is_held:
        ctx.exit(CHECK_FAILED)


def _says_what_is_paused(relay: Relay) -> bool:
    streams = sorted(relay.left_paused)
    if streams:
        logger.warning(
            "not everything is delivered: %s %s paused; see `outbox-relay paused`",
            ", ".join(f"lane {stream}" for stream in streams),
            "is" if len(streams) == 1 else "are",
            extra={"event": "relay.left_paused"},
        )
    return bool(streams)


def _says_what_is_held(settings: Settings) -> bool:
    from outbox.cli.waiting import connected_store

    with connected_store(settings) as store:
        counts = store.held_admin().counts(settings.name)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if told:
        logger.warning(
            "messages of relay %s are held: %s; see `outbox-relay held list`",
            settings.name,
            told,
            extra={"event": "relay.held"},
        )
    return bool(told)


def _say_what_was_done(monitor: RelayMonitor) -> None:
    from outbox.metrics.catalogue import SENT

    delivered = sum(reading.value for reading in monitor.figures.readings(SENT))
    logger.info(
        "relay %s has ended; it delivered %d message%s",
        monitor.relay,
        delivered,
        "" if delivered == 1 else "s",
        extra={"event": "relay.ended"},
    )


def publishers(settings: Settings) -> Callable[[], Publisher]:
    """Return what makes a publisher for every term; one in front only where there is need."""
    from outbox.publishers.choosing import make_publisher

    make_kafka = partial(make_publisher, settings.kafka_properties(), settings.delivery)
    if not settings.topics and settings.cloudevents == "off":
        return make_kafka
    from outbox.encoding.encodings import Encodings
    from outbox.encoding.publisher import EncodingPublisher

    settings.make_importable()  # a schema may be a class
    encodings = Encodings(
        settings.topics,
        settings.registry,
        cloudevents=settings.cloudevents,
        source=settings.cloudevents_source,
    )
    return lambda: EncodingPublisher(make_kafka(), encodings)


def _relay(settings: Settings, observer: Observer, waker: Waker) -> Relay:
    """Wire a relay; what is wrong with the settings shows before anything is connected."""
    from outbox.relay.relay import Relay
    from outbox.relay.settings import RelaySettings
    from outbox.store.opening import open_store

    store = open_store(
        settings.require_database(),
        settings.names,
        password_callback=settings.password_callback(),
        silence_s=max(settings.lease / 2, _LEAST_SILENCE_S),
    )
    return Relay(
        store,
        publishers(settings),
        RelaySettings(
            name=settings.name,
            delivery=settings.delivery,
            poll_interval_s=settings.poll_interval,
            lease_s=settings.lease,
            drain_timeout_s=settings.drain_timeout,
            connect_timeout_s=settings.connect_timeout,
            max_messages_per_second=settings.max_messages_per_second,
            max_bytes_per_second=settings.max_bytes_per_second,
            retry=settings.retry,
        ),
        observer=observer,
        waker=waker,
    )
