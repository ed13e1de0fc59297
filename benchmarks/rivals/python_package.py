"""Run the relay of a Python package in an environment of its own, and measure how it drains."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.rivals import arrivals
from benchmarks.rivals.arrivals import Drained
from benchmarks.rivals.fetching import environment
from benchmarks.rivals.reporting import Measure
from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from tests.servers.process import ServerProcess

HERE = Path(__file__).parent / "python"


@dataclass(frozen=True)
class PythonPackage:
    """A package by the name of its files in `python/`.

    `fill`: the INSERT of the backlog into rival.outbox, with `topic`, `keys`, `bytes`, `messages`.
    """

    name: str
    fill: str
    settings: Mapping[str, object]

    @property
    def conditions(self) -> dict[str, object]:
        """Return versions and settings, for the report."""
        lines = self._requirements.read_text().splitlines()
        return {"requirements": [line for line in lines if "==" in line], **self.settings}

    @property
    def _requirements(self) -> Path:
        return HERE / f"{self.name}.txt"

    @contextmanager
    def fetched(self, url: str, bootstrap: str, messages: int) -> Iterator[Measure]:
        """Make its environment, and yield what measures one drain."""
        python = environment(self._requirements)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("set client_min_messages = warning")
            try:
                yield lambda: self._drained(python, connection, url, bootstrap, messages)
            finally:
                connection.execute("drop schema if exists rival cascade")

    def _drained(
        self, python: Path, connection: psycopg.Connection, url: str, bootstrap: str, messages: int
    ) -> Drained:
        """Let it make its table, write a backlog, start it again."""
        connection.execute("drop schema if exists rival cascade; create schema rival")
        order = {**self.settings, "database_url": url, "bootstrap": bootstrap}
        with self._running(python, order):
            pass
        with arrivals.new_topic(self.name, bootstrap) as topic:
            values = {"topic": topic, "keys": KEYS, "bytes": PAYLOAD_BYTES, "messages": messages}
            connection.execute(self.fill, values)
            connection.execute("vacuum analyze rival.outbox")
            connection.execute("checkpoint")
            with self._running(python, order) as process:
                return arrivals.of(process, topic, messages, bootstrap)

    @contextmanager
    def _running(self, python: Path, order: Mapping[str, object]) -> Iterator[ServerProcess]:
        home = Path(tempfile.mkdtemp(prefix=f"outbox-{self.name}-"))
        log = home / "log"
        process = ServerProcess(
            [str(python), str(HERE / f"{self.name}_relay.py"), json.dumps(order)],
            directory=home,
            log=log,
        )
        try:
            process.wait_until(lambda: "ready" in log.read_text(), what=self.name, timeout=60)
            yield process
        finally:
            process.kill()
            shutil.rmtree(home, ignore_errors=True)
