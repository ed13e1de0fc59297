"""examples/run: start both services and everything they need, until Ctrl-C."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType

from examples.running.processes import Ended, Processes
from examples.running.services import Surroundings, preparations, processes
from examples.running.setup import Setup, SetupError, read_setup
from outbox.errors import OutboxError

_LOOK_EVERY_S = 0.2
_PATIENCE_S = 60.0


def main() -> int:
    """Run until told to stop; return the exit code."""
    stop = _Stop()
    try:
        setup = read_setup(sys.argv[1:], os.environ)
        _check_ports(setup)
        with _directory(setup) as directory, Processes(sys.stdout) as running:
            _run(setup, directory, running, stop)
    except _Stopped:
        print("stopped", flush=True)
        return 0
    except (SetupError, Ended, OutboxError) as error:
        print(f"examples/run: {error}", file=sys.stderr)
        return 1
    return 0


def _run(setup: Setup, directory: Path, running: Processes, stop: _Stop) -> None:
    # Here, since they take a second to load, and what is wrong should be said before.
    from examples.running.kafka import kafka

    stop.may_interrupt()
    with kafka(setup.kafka) as bootstrap_servers, _traces(setup) as (endpoint, traces_url):
        around = Surroundings(
            setup=setup,
            directory=directory,
            kafka=bootstrap_servers,
            otlp_endpoint=endpoint,
            traces_url=traces_url,
            admin_password=secrets.token_urlsafe(9),
        )
        try:
            _start(around, running)
            while True:
                running.watch()
                time.sleep(_LOOK_EVERY_S)
        finally:
            # Before Kafka goes: the relays hand over what is in flight.
            stop.must_not_interrupt()
            running.stop()


def _start(around: Surroundings, running: Processes) -> None:
    for plans in preparations(around):
        running.run(*plans)
    for plan in processes(around):
        running.start(plan)
    for url in (around.shop_url, around.billing_url):
        _wait_for(f"{url}/healthz", running)
    for line in _welcome(around):
        running.say(line)


def _welcome(around: Surroundings) -> Iterator[str]:
    setup = around.setup
    yield f"shop      {around.shop_url}/"
    yield f"billing   {around.billing_url}/"
    yield f"admin     {around.shop_url}/admin/   user admin, password {around.admin_password}"
    yield f"databases {'PostgreSQL' if setup.shop_database else f'SQLite, in {around.directory}'}"
    yield f"Kafka     {around.kafka}{'' if setup.kafka else ' (mock cluster in this process)'}"
    yield "ready; Ctrl-C stops everything"


def _wait_for(url: str, running: Processes) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        running.watch()
        try:
            with urllib.request.urlopen(url, timeout=2.0):  # noqa: S310 - our own address
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Ended(f"{url} did not answer within {_PATIENCE_S:g} s: {error}") from error
        time.sleep(0.1)


def _check_ports(setup: Setup) -> None:
    for name, port in (("SHOP_PORT", setup.shop_port), ("BILLING_PORT", setup.billing_port)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise SetupError(
                    f"cannot listen on 127.0.0.1:{port} ({error.strerror}); choose another port: "
                    f"{name}={port + 100} examples/run"
                ) from error


@contextmanager
def _directory(setup: Setup) -> Iterator[Path]:
    """Yield where the SQLite files go: the given directory, or one that is removed at the end."""
    if setup.directory is None:
        with tempfile.TemporaryDirectory(prefix="outbox-examples-") as path:
            yield Path(path)
        return
    try:
        setup.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"--directory {setup.directory}: {error.strerror}") from error
    yield setup.directory.resolve()


@contextmanager
def _traces(setup: Setup) -> Iterator[tuple[str, str]]:
    """Yield where spans go, and where they can be read."""
    from examples.running.traces import Traces, collect

    kept_here = nullcontext("") if setup.otlp_endpoint else collect(Traces())
    with kept_here as url:
        yield setup.otlp_endpoint or url, setup.traces_url or url


class _Stopped(BaseException):
    """Somebody has told us to stop."""


class _Stop:
    """SIGINT and SIGTERM: raised as _Stopped where that may be, else noted until it may."""

    def __init__(self) -> None:
        self._is_asked = self._interrupts = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def may_interrupt(self) -> None:
        self._interrupts = True
        self._stop_if_asked()

    def must_not_interrupt(self) -> None:
        """Let the clean-up be: a second Ctrl-C does not leave processes behind."""
        self._interrupts = False

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._is_asked = True
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._is_asked and self._interrupts:
            self._interrupts = False
            raise _Stopped


if __name__ == "__main__":
    sys.exit(main())
