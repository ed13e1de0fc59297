"""Watermill's forwarder from PostgreSQL to Kafka: what `benchmarks.latency` measures ours against.

`python -m benchmarks.rivals.watermill` drains a backlog by it, as a ratio, which has no goal.
"""

from __future__ import annotations

import base64
import functools
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import psycopg

from benchmarks.program import options
from benchmarks.rivals import arrivals
from benchmarks.rivals.arrivals import Drained
from benchmarks.rivals.fetching import RivalUnavailable, program
from benchmarks.rivals.reporting import Drain, Measure, run
from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from outbox.bench.latency import Write
from outbox.bench.process import backends, is_local_server
from tests.servers.process import ServerProcess

#: The Go module.
SOURCE = Path(__file__).parent / "watermill"

#: The table is `watermill_` and this; the forwarder makes it when it starts.
FORWARDER_TOPIC = "outbox"

ID_HEADER = "_watermill_message_uuid"

INSERT = """
insert into rival.watermill_outbox (uuid, payload, metadata, transaction_id)
values (%s, %s, '{}', pg_current_xact_id())
"""

FILL = """
insert into rival.watermill_outbox (uuid, payload, metadata, transaction_id)
select gen_random_uuid()::text,
       json_build_object(
           'destination_topic', %(topic)s::text,
           'uuid', gen_random_uuid()::text,
           'payload', translate(
               encode(convert_to(repeat('x', %(bytes)s::int), 'UTF8'), 'base64'), chr(10), ''),
           'metadata', json_build_object(
               'key', 'key-' || g %% %(keys)s::int,
               'traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01')),
       '{}', pg_current_xact_id()
  from generate_series(%(first)s::int, %(last)s::int) as g
"""

#: Rows of one transaction of the backlog: its query reads by transaction.
ROWS_PER_TRANSACTION = 100


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 50_000, "the backlog"),
        repetitions=(int, 3, "how often both are measured"),
        batch=(int, 100, "rows that Watermill asks for at a time"),
    )
    arguments = parser.parse_args()
    drain = Drain(
        "B4w",
        "Watermill's forwarder",
        None,
        functools.partial(draining, batch=arguments.batch),
        {**versions(), "batch": arguments.batch},
    )
    run(drain, arguments)


def versions() -> dict[str, str]:
    """Return the versions that go.mod pins."""
    lines = (SOURCE / "go.mod").read_text().splitlines()
    wanted = [line.split() for line in lines if "ThreeDotsLabs" in line]
    return {name.removeprefix("github.com/ThreeDotsLabs/"): version for name, version in wanted}


def available() -> str | None:
    """Fetch and build it; return why that cannot be done here, or None."""
    try:
        program(SOURCE)
    except RivalUnavailable as absent:
        return str(absent)
    return None


@dataclass(frozen=True)
class WatermillPipeline:
    """A forwarder that runs; implements `outbox.bench.latency.Pipeline`."""

    topic: str
    url: str
    application: str
    process: ServerProcess

    @contextmanager
    def writer(self) -> Iterator[Write]:
        """Open a connection that writes what Watermill's own publisher for the forwarder writes."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.cursor()

            def write(key: str, payload: bytes) -> None:
                cursor.execute(
                    INSERT, (str(uuid.uuid4()), self._envelope(key, payload)), prepare=True
                )

            yield write

    def _envelope(self, key: str, payload: bytes) -> str:
        return json.dumps(
            {
                "destination_topic": self.topic,
                "uuid": str(uuid.uuid4()),
                "payload": base64.b64encode(payload).decode(),
                "metadata": {"key": key},
            }
        )

    def pids(self) -> list[int]:
        """The forwarder, and its sessions' processes where they are at hand."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            if not is_local_server(connection):
                return [self.process.pid]
            return [self.process.pid, *backends(connection, self.application)]


@contextmanager
def latency_pipeline(url: str, bootstrap: str) -> Iterator[WatermillPipeline]:
    """Run a forwarder that looks every millisecond, with empty tables and a topic of its own."""
    with (
        arrivals.new_topic("watermill", bootstrap) as topic,
        schema(url),
        running(url, bootstrap) as pipeline,
    ):
        yield WatermillPipeline(topic, url, *pipeline)


@contextmanager
def schema(url: str) -> Iterator[psycopg.Connection]:
    """Make the rival's schema, empty, and drop it at the end."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute("drop schema if exists rival cascade; create schema rival")
        try:
            yield connection
        finally:
            connection.execute("drop schema if exists rival cascade")


@contextmanager
def running(url: str, bootstrap: str, *more: str) -> Iterator[tuple[str, ServerProcess]]:
    """Run the forwarder until the block ends; yield its application name and its process."""
    executable = program(SOURCE)
    home = Path(tempfile.mkdtemp(prefix="outbox-watermill-"))
    log = home / "log"
    application = "outbox-bench-watermill"
    settings = urlencode({"application_name": application, "search_path": "rival"})
    own_url = f"{url}{'&' if '?' in url else '?'}{settings}"
    process = ServerProcess(
        [str(executable), f"-database-url={own_url}", f"-bootstrap={bootstrap}", *more],
        directory=home,
        log=log,
    )
    try:
        process.wait_until(lambda: "ready" in log.read_text(), what="Watermill", timeout=60)
        yield application, process
    finally:
        process.kill()
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def draining(url: str, bootstrap: str, messages: int, batch: int) -> Iterator[Measure]:
    """Build it, and yield what measures one drain."""
    program(SOURCE)
    yield lambda: drained(url, bootstrap, messages, batch)


def drained(url: str, bootstrap: str, messages: int, batch: int) -> Drained:
    """Let it make its table, write a backlog, start it again; return how fast it drains."""
    with schema(url) as connection, arrivals.new_topic("watermill", bootstrap) as topic:
        with running(url, bootstrap):
            pass
        _fill(connection, topic, messages)
        with running(url, bootstrap, f"-batch={batch}") as (_, process):
            return arrivals.of(process, topic, messages, bootstrap, ID_HEADER)


def _fill(connection: psycopg.Connection, topic: str, messages: int) -> None:
    for first in range(1, messages + 1, ROWS_PER_TRANSACTION):
        last = min(first + ROWS_PER_TRANSACTION - 1, messages)
        values = {
            "first": first,
            "last": last,
            "topic": topic,
            "keys": KEYS,
            "bytes": PAYLOAD_BYTES,
        }
        connection.execute(FILL, values)
    connection.execute("vacuum analyze rival.watermill_outbox")


if __name__ == "__main__":
    main()
