"""B9: reading a batch from a log with many delivered messages, as a ratio to an almost empty log.

Both logs get the same messages by turns; a reader as the relay's finds them, saves its plan and
fetches them. Nothing is sent: the broker has no part in this.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from benchmarks.program import Found, options, run
from outbox.bench.draining import fill
from outbox.bench.place import Place, place
from outbox.bench.result import Goal, Repetition, Row
from outbox.errors import OutboxError
from outbox.relay.settings import RelaySettings
from outbox.store.opening import open_store

RELAY, LANE = "bench", "default"

#: Rows that one statement writes while the log is filled.
_PART = 250_000


def main() -> None:
    parser = options(
        __doc__,
        rows=(int, 10_000_000, "delivered messages in the large log"),
        batch=(int, 2_000, "messages in a batch"),
        repetitions=(int, 100, "batches read from each"),
        payload_bytes=(int, 16, "size of a delivered message"),
    )
    run("B9", parser, measure)


def measure(large: Place, arguments: argparse.Namespace) -> Found:
    with place(large.servers, 1) as small:
        for each in (large, small):
            each.renew()
        began = time.perf_counter()
        for first in range(0, arguments.rows, _PART):
            rows = min(_PART, arguments.rows - first)
            last = first + rows == arguments.rows
            fill(large, rows, arguments.payload_bytes, settle=last)
        filled_s = time.perf_counter() - began
        with _reader(large) as ours, _reader(small) as empty:
            for reader in (ours, empty):
                reader.batch_ms(arguments.batch)
            found = [
                Repetition(ours.batch_ms(arguments.batch), empty.batch_ms(arguments.batch))
                for _ in range(arguments.repetitions)
            ]
            bytes_ = ours.log_bytes()
    what = f"a batch of {arguments.batch:,} behind {arguments.rows:,} delivered rows"
    row = Row("B9", what, "ms", "the same batch in an empty log", found, Goal(1.2, "at most"))
    return Found([row], {"log_bytes": bytes_, "filled_in_s": round(filled_s, 1)})


class _Reader:
    """Reads and saves as a relay does that begins after the last message there is."""

    def __init__(self, there: Place) -> None:
        self._place = there
        self.store = open_store(there.servers.url, there.names)
        self.store.connect()
        self.store.create_relay(RELAY, "latest")
        lease = self.store.acquire(RELAY, LANE, "bench", 3600.0)
        if lease is None:
            raise OutboxError("the lane of a new relay name is not free")
        self._lease = lease
        self._reader = self.store.reader(lease)

    def batch_ms(self, messages: int) -> float:
        """Write a batch, and return how long it takes to read it."""
        fill(self._place, messages, settle=False)
        settings = RelaySettings()
        read = 0
        began = time.perf_counter()
        while read < messages:
            page = self._reader.read(settings.page_messages, settings.page_bytes)
            if page is None:
                raise OutboxError(f"{read} of {messages} messages were read: this is no result")
            read += len(page.records)
        took = time.perf_counter() - began
        self.store.save(self._lease, page.end, 3600.0)
        return took * 1_000

    def log_bytes(self) -> int:
        """Return the size of the log with its indexes."""
        return self.store.log_bytes()


@contextmanager
def _reader(there: Place) -> Iterator[_Reader]:
    made = _Reader(there)
    with closing(made.store):
        yield made


if __name__ == "__main__":
    main()
