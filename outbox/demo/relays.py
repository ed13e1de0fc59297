"""Two relays: one in a process that is killed at the worst moment, and its successor."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from outbox.errors import OutboxError
from outbox.names import Names
from outbox.publishers.kafka import KafkaPublisher
from outbox.record import Position
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.base import Lease
from outbox.store.sqlite import SQLiteStore

#: Progress is noted after at least so many messages.
_NOTED_EVERY = 12

#: Few messages at a time, so that there is a middle to be killed in.
_SMALL_STEPS = RelaySettings(page_messages=8, in_flight_messages=8, save_interval_s=0.0)

_PATIENCE_S = 60.0

# Windows has no SIGKILL, and ends a process as abruptly for any signal.
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


class KilledStore(SQLiteStore):
    """The log as it is; but the second time that progress is to be noted, the process is killed.

    By then Kafka has confirmed messages that the database does not know to be delivered. Progress
    is noted by count instead of by time, so that this does not depend on the machine's speed.
    """

    _noted = Position(0, 0)

    def save(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Renew the lease, and note the progress or die."""
        if position.seq < self._noted.seq + _NOTED_EVERY:
            position = self._noted
        elif self._noted.seq:
            os.kill(os.getpid(), _KILL)
        super().save(lease, position, lease_s)
        self._noted = position


def kill_a_relay(database: Path, bootstrap_servers: str) -> int:
    """Run a relay in a process of its own, wait until it was killed, return its process id."""
    command = [sys.executable, "-m", "outbox.demo.relays", str(database), bootstrap_servers]
    with _process(command) as process:
        code = process.wait(_PATIENCE_S)
    if code not in (_KILL, -_KILL):
        raise OutboxError(f"the relay process was to be killed, and ended with code {code}")
    return process.pid


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that ends with this one: by `kill` here, else when its stdin is closed."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE)  # noqa: S603 - our own module
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def drain(database: Path, bootstrap_servers: str) -> None:
    """Run a relay in this process until everything that is committed is delivered."""
    relay = _relay(SQLiteStore(str(database), Names()), bootstrap_servers, RelaySettings())
    relay.run(threading.Event(), drain=True)


def undelivered(database: Path) -> int:
    """Return how many messages the database does not know to be delivered."""
    store = SQLiteStore(str(database), Names())
    store.connect()
    try:
        return sum(lane.lag_messages for lane in store.status())
    finally:
        store.close()


def _relay(store: SQLiteStore, bootstrap_servers: str, settings: RelaySettings) -> Relay:
    publisher = partial(KafkaPublisher, {"bootstrap.servers": bootstrap_servers})
    return Relay(store, publisher, settings)


def _main(database: str, bootstrap_servers: str) -> None:
    """Be the relay that is killed."""
    logging.getLogger("outbox").addHandler(logging.NullHandler())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees Ctrl-C too, and ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    store = KilledStore(database, Names())
    _relay(store, bootstrap_servers, _SMALL_STEPS).run(threading.Event(), drain=True)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    _main(*sys.argv[1:])
