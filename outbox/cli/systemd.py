"""What systemd wants to hear of a service of Type=notify: ready, alive, stopping."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

logger = logging.getLogger("outbox.systemd")

#: How often to look whether there is something to tell, in seconds, at the least.
_LOOK_S = 1.0


def notify(state: str, environ: Mapping[str, str]) -> None:
    """Tell systemd, if it started this process and asked to be told."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # a name in the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError as error:
        logger.warning("systemd cannot be told %s: %s", state, error)


@contextmanager
def supervised(
    alive: Callable[[], bool], stop: threading.Event, environ: Mapping[str, str]
) -> Iterator[None]:
    """Be ready now, alive while `alive` says so, and stopping once `stop` is set.

    Ready does not mean that the servers are there: the relay waits for them, and systemd must not.
    """
    if not environ.get("NOTIFY_SOCKET"):
        yield
        return
    ended = threading.Event()
    arguments = (alive, stop, ended, environ)
    thread = threading.Thread(target=_report, args=arguments, name="outbox-systemd", daemon=True)
    notify("READY=1", environ)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        notify("STOPPING=1", environ)


def _report(
    alive: Callable[[], bool],
    stop: threading.Event,
    ended: threading.Event,
    environ: Mapping[str, str],
) -> None:
    watchdog_s = watchdog_interval_s(environ)
    stopping = False
    while not ended.wait(min(watchdog_s or _LOOK_S, _LOOK_S)):
        if stop.is_set() and not stopping:
            stopping = True
            notify("STOPPING=1", environ)
        if watchdog_s is not None and alive():
            notify("WATCHDOG=1", environ)


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Return how often the watchdog is to be told, half of its patience; None if there is none."""
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(text) / 2_000_000 or None
