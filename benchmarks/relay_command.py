"""`outbox-relay run` as its users run it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

from outbox.bench.place import Place
from outbox.bench.process import backends, is_local_server
from outbox.errors import OutboxError

HOLDS_THE_LANE = "holds the lane"

_PATIENCE_S = 60.0


class RelayCommand:
    """A relay process for a place. Use it as a context manager; leaving it stops the process.

    Its session is called `application` in the database, so that it can be told from others.
    """

    def __init__(self, place: Place, *arguments: str) -> None:
        self.application = f"relay-{place.schema}"
        self._place = place
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed at the exit
        self.started_at = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "outbox.cli.main", "run", *arguments],
            env=self._environment(),
            stderr=self._log,
        )

    def _environment(self) -> dict[str, str]:
        """Return variables, since a command line with passwords could be read by all."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")}
        servers = self._place.servers
        conninfo = f"{servers.url.conninfo} application_name={self.application}"
        return {
            **kept,
            "OUTBOX_DATABASE_URL": conninfo,
            "OUTBOX_SCHEMA": self._place.schema,
            "OUTBOX_KAFKA_BOOTSTRAP_SERVERS": str(servers.kafka["bootstrap.servers"]),
        }

    def pids(self) -> list[int]:
        """Return the process, and its session's if the database is on this machine."""
        with self._place.servers.connect() as connection:
            if not is_local_server(connection):
                return [self.process.pid]
            return [self.process.pid, *backends(connection, self.application)]

    def wait_until_it_holds_the_lane(self) -> None:
        """Wait for the line that it says then."""
        self.wait_until(lambda: HOLDS_THE_LANE in self.said(), "the relay to hold the lane")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition as long as the process lives."""
        deadline = time.monotonic() + _PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise OutboxError(f"waited for {what}; the relay said: {self.said()}")
            time.sleep(0.02)

    def wait_until_it_has_ended(self, patience_s: float, look: Callable[[], None]) -> None:
        """Wait for the end of a drain, and call `look` meanwhile."""
        deadline = time.monotonic() + patience_s
        while self.process.poll() is None and time.monotonic() < deadline:
            look()
            time.sleep(0.02)
        if self.process.poll() != 0:
            raise OutboxError(f"the relay did not end well; it said: {self.said()}")

    def said(self) -> str:
        """Return its log."""
        self._log.seek(0)
        return self._log.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
