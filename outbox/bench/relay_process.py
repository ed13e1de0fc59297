"""A relay in a process of its own, for as long as this process lives."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from outbox.bench.place import Place, Servers
from outbox.bench.process import backends, is_local_server
from outbox.errors import BrokerUnavailable, OutboxError
from outbox.names import Names
from outbox.publishers.choosing import make_publisher
from outbox.record import DeliveryMode
from outbox.relay.collector import spare_the_collector
from outbox.relay.observer import Unobserved
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE_S = 60.0

#: What the relay's process says when it can begin.
_READY = "ready"


@contextmanager
def relay_process(place: Place, delivery: DeliveryMode) -> Iterator[Callable[[], list[int]]]:
    """Run a relay beside this process; yield what finds its processes, the session's included.

    It ends with the block, and also when this process is killed. Raises OutboxError if it does not
    come to hold its lane.
    """
    # Not a fork: librdkafka and its threads would not survive one.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    application = f"outbox-relay bench {place.schema}"
    servers = _named(place.servers, application)
    process = context.Process(
        target=_serve, args=(theirs, servers, place.names, delivery), daemon=True
    )
    process.start()
    theirs.close()
    try:
        _await_ready(ours)
        yield lambda: _pids(place, process.pid or 0, application)
    finally:
        ours.close()  # which tells it to stop
        process.join(_PATIENCE_S)
        if process.is_alive():
            process.kill()
            process.join()


def _named(servers: Servers, application: str) -> Servers:
    """Return servers whose sessions can be told from others."""
    kept = [pair for pair in servers.url.parameters if pair[0] != "application_name"]
    named = (*kept, ("application_name", application))
    return replace(servers, url=replace(servers.url, parameters=named))


def _await_ready(connection: Connection) -> None:
    if not connection.poll(_PATIENCE_S):
        raise BrokerUnavailable(f"the relay was not ready within {_PATIENCE_S:g} s")
    try:
        said = connection.recv()
    except EOFError:
        said = "its process ended without a word"
    if said != _READY:
        raise OutboxError(f"the relay could not begin: {said}")


def _pids(place: Place, pid: int, application: str) -> list[int]:
    with place.servers.connect() as connection:
        sessions = backends(connection, application) if is_local_server(connection) else []
        return [pid, *sessions]


# In the other process


def _serve(connection: Connection, servers: Servers, names: Names, delivery: DeliveryMode) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both
    logging.getLogger("outbox").addHandler(logging.NullHandler())
    stop = threading.Event()
    threading.Thread(target=_wait_for_the_end, args=(connection, stop), daemon=True).start()
    spare_the_collector()
    relay = Relay(
        open_store(servers.url, names, password_callback=servers.password_callback),
        lambda: make_publisher(servers.kafka, delivery),
        RelaySettings(delivery=delivery),
        observer=_Announcer(connection),
    )
    try:
        relay.run(stop)
    except OutboxError as error:
        with suppress(OSError):
            connection.send(str(error))


def _wait_for_the_end(connection: Connection, stop: threading.Event) -> None:
    """Set `stop` when the other end is closed, by whatever."""
    with suppress(EOFError, OSError):
        connection.recv()
    stop.set()


class _Announcer(Unobserved):
    """Says when the lane is held."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def began_term(self, lane: str, epoch: int) -> None:  # noqa: ARG002 - the seam's signature
        """Say it, the first time."""
        if epoch == 1:
            with suppress(OSError):
                self._connection.send(_READY)
