"""What runs beside a relay: its monitor, sampler, HTTP endpoints, metrics, and word to systemd."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from outbox.store.opening import open_store

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from outbox.config.settings import Settings
    from outbox.metrics.monitor import RelayMonitor
    from outbox.store.base import LogGauges

#: A sample may take as long, in seconds; then a network that swallows everything is more likely.
_SILENCE_S = 60.0


def make_monitor(settings: Settings) -> RelayMonitor:
    """Return what the relay tells of itself to."""
    from outbox.metrics.monitor import RelayMonitor

    return RelayMonitor(
        settings.name,
        stall_s=settings.stall_timeout,
        lease_s=settings.lease,
        delivery=settings.delivery,
    )


@contextmanager
def watched(settings: Settings, monitor: RelayMonitor, stop: threading.Event) -> Iterator[None]:
    """Let the world see how the relay is, for as long as it runs.

    Raises ConfigurationError when the port cannot be listened on.
    """
    from outbox.cli.systemd import supervised
    from outbox.metrics.otel import export_metrics
    from outbox.relay.sampler import Sampler

    with ExitStack() as stack:
        if settings.http_port is not None:
            _serve(settings, monitor, stop, stack)
        export_metrics(monitor)
        stack.enter_context(Sampler(lambda: _open(settings), monitor.relay, monitor))
        stack.enter_context(supervised(lambda: monitor.pulse.look().alive, stop, os.environ))
        yield


def _serve(
    settings: Settings, monitor: RelayMonitor, stop: threading.Event, stack: ExitStack
) -> None:
    from outbox.http.endpoints import endpoints
    from outbox.http.health import Health
    from outbox.http.server import HttpServer
    from outbox.metrics.prometheus import Exposition

    answers = endpoints(Health(monitor, stop.is_set), Exposition(monitor.figures))
    stack.enter_context(HttpServer(settings.http_host, settings.http_port or 0, answers))


def _open(settings: Settings) -> LogGauges:
    return open_store(
        settings.require_database(),
        settings.names,
        password_callback=settings.password_callback(),
        silence_s=_SILENCE_S,
    )
