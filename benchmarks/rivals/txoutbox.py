"""B3: drain a backlog, as a ratio to the fastest Python package that we know, in the same run.

txoutbox, with asyncpg and uvloop, and librdkafka behind it, in a virtual environment of its own.
Its time runs from the first message that is seen in the topic to the last; ours runs from the first
statement to the last acknowledgement.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from benchmarks.program import options
from benchmarks.rivals import arrivals
from benchmarks.rivals.arrivals import Drained
from benchmarks.rivals.fetching import environment
from benchmarks.rivals.reporting import Drain, Measure, run
from outbox.bench.draining import KEYS, PAYLOAD_BYTES
from tests.servers.process import ServerProcess

HERE = Path(__file__).parent / "python"

FILL = """
insert into rival.outbox (topic, key, payload, headers)
select %s, 'key-' || g %% %s, convert_to(repeat('x', %s), 'UTF8'),
       '{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}'
  from generate_series(1, %s) as g
"""


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 300_000, "the backlog"),
        repetitions=(int, 3, "how often both are measured"),
        batch_size=(int, 2_000, "of txoutbox"),
        concurrency=(int, 1_000, "of txoutbox"),
    )
    parser.add_argument("--unordered", action="store_true", help="without its promise of order")
    parser.add_argument("--keep", action="store_true", help="mark what is sent, not delete it")
    arguments = parser.parse_args()
    settings: dict[str, object] = {
        "batch_size": arguments.batch_size,
        "concurrency": arguments.concurrency,
        "strict_ordering": not arguments.unordered,
        "delete_on_ack": not arguments.keep,
    }
    drain = Drain(
        "B3",
        "txoutbox",
        20.0,
        lambda url, bootstrap: ready(url, bootstrap, arguments.messages, settings),
        {"requirements": (HERE / "txoutbox.txt").read_text().split("\n")[1:-1], **settings},
    )
    run(drain, arguments)


@contextmanager
def ready(
    url: str, bootstrap: str, messages: int, settings: dict[str, object]
) -> Iterator[Measure]:
    """Fetch it, and yield what measures one drain."""
    python = environment(HERE / "txoutbox.txt")
    given = {**settings, "database_url": url, "bootstrap": bootstrap}
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            yield lambda: drained(python, connection, given, messages)
        finally:
            connection.execute("drop schema if exists rival cascade")


def drained(
    python: Path, connection: psycopg.Connection, settings: dict[str, object], messages: int
) -> Drained:
    """Let it make its table, write a backlog, start it again; return how fast it drains."""
    connection.execute("drop schema if exists rival cascade; create schema rival")
    with running(python, settings):
        pass
    bootstrap = str(settings["bootstrap"])
    with arrivals.new_topic("txoutbox", bootstrap) as topic:
        connection.execute(FILL, (topic, KEYS, PAYLOAD_BYTES, messages))
        connection.execute("vacuum analyze rival.outbox")
        connection.execute("checkpoint")
        with running(python, settings) as process:
            return arrivals.of(process, topic, messages, bootstrap)


@contextmanager
def running(python: Path, settings: dict[str, object]) -> Iterator[ServerProcess]:
    """Run the relay until the block ends."""
    home = Path(tempfile.mkdtemp(prefix="outbox-txoutbox-"))
    log = home / "log"
    process = ServerProcess(
        [str(python), str(HERE / "txoutbox_relay.py"), json.dumps(settings)],
        directory=home,
        log=log,
    )
    try:
        process.wait_until(lambda: "ready" in log.read_text(), what="txoutbox", timeout=60)
        yield process
    finally:
        process.kill()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
