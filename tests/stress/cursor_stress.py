"""Adversarial writers, a reader that crashes, and a checker that compares what came out.

Writers take a number from a row they lock, so the true order of a key is known: 1, 2, 3, …
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg

from outbox.record import Record
from outbox.store.owner import new_owner
from tests.conformance.store_kit import StoreKit

ACCOUNTS = 20
INSERT = "insert into outbox_message (topic, key, payload) values ('t', %s, convert_to(%s, 'UTF8'))"


@dataclass
class Read:
    """Everything the reader handed out, in order, repeats after crashes included."""

    seen: list[tuple[tuple[int, int], str, int]] = field(default_factory=list)
    crashes: int = 0


@dataclass(frozen=True)
class Findings:
    """What the checker found. Everything but `rows` and `late` should be zero."""

    rows: int
    late: int
    missing: int
    phantoms: int
    repeated: int
    out_of_order: int
    moved: int  # messages that came at two positions, or positions below an earlier one

    @property
    def faults(self) -> int:
        return self.missing + self.phantoms + self.repeated + self.out_of_order + self.moved


class Writers:
    """8 transactional writers, 3 that write single statements, one that prepares transactions,
    beside a transaction that stays open for the whole run."""

    def __init__(self, kit: StoreKit, seed: int) -> None:
        self._dsn = kit.url.conninfo
        self._seed = seed
        self._stop = threading.Event()
        self.failures: list[BaseException] = []
        with self._connect(autocommit=True) as connection:
            connection.execute("create table account (k int primary key, n int not null default 0)")
            connection.execute(
                "insert into account select g, 0 from generate_series(1, %s) as g", (ACCOUNTS,)
            )
        loops = [self._transactions] * 8 + [self._single_statements] * 3
        self._threads = [
            threading.Thread(target=self._guard, args=(loop, number), daemon=True)
            for number, loop in enumerate([*loops, self._prepared])
        ]

    def _connect(self, **options: Any) -> psycopg.Connection:
        return psycopg.connect(self._dsn, **options)

    def _guard(self, loop: Callable[[random.Random, int], None], number: int) -> None:
        try:
            loop(random.Random(self._seed * 1000 + number), number)
        except BaseException as error:
            self.failures.append(error)

    def run(self, seconds: float) -> None:
        with self._connect() as long_transaction:
            long_transaction.execute("select pg_current_xact_id()")
            for thread in self._threads:
                thread.start()
            self._stop.wait(seconds)
            self._stop.set()
            for thread in self._threads:
                thread.join()
            long_transaction.rollback()
        if self.failures:
            raise self.failures[0]

    def _transactions(self, draw: random.Random, _: int) -> None:
        with self._connect() as connection:
            while not self._stop.is_set():
                try:
                    self._transaction(connection, draw)
                except psycopg.errors.DeadlockDetected:
                    connection.rollback()

    def _transaction(self, connection: psycopg.Connection, draw: random.Random) -> None:
        if draw.random() < 0.3:  # an id long before the first message
            connection.execute("select pg_current_xact_id()")
            time.sleep(draw.random() * (0.2 if draw.random() < 0.3 else 0.02))
        for account in sorted(draw.sample(range(1, ACCOUNTS + 1), draw.randint(1, 3))):
            savepoint = draw.random() < 0.3
            if savepoint:
                connection.execute("savepoint s")
            number = connection.execute(
                "update account set n = n + 1 where k = %s returning n", (account,)
            ).fetchone()[0]
            if draw.random() < 0.3:
                time.sleep(draw.random() * 0.01)
            connection.execute(INSERT, (f"a{account}", str(number)))
            if savepoint and draw.random() < 0.5:
                connection.execute("rollback to savepoint s")
        connection.rollback() if draw.random() < 0.15 else connection.commit()

    def _single_statements(self, _: random.Random, number: int) -> None:
        with self._connect(autocommit=True) as connection:
            count = 0
            while not self._stop.is_set():
                count += 1
                connection.execute(INSERT, (f"s{number}", str(count)))

    def _prepared(self, draw: random.Random, _: int) -> None:
        with self._connect(autocommit=True) as connection:
            count = 0
            while not self._stop.is_set():
                count += 1
                name = f"stress-{self._seed}-{count}"
                connection.execute("begin")
                connection.execute(INSERT, (f"p{count}", "1"))
                connection.execute(f"prepare transaction '{name}'")
                self._stop.wait(draw.random() * 0.5)
                verb = "commit" if draw.random() < 0.8 else "rollback"
                connection.execute(f"{verb} prepared '{name}'")


class CrashingReader:
    """Reads as a relay does, and forgets everything at random moments."""

    def __init__(
        self,
        kit: StoreKit,
        seed: int,
        crash_rate: float,
        page: int = 200,
        relay: str = "default",
    ) -> None:
        self._kit = kit
        self._relay = relay
        self._draw = random.Random(seed)
        self.crash_rate = crash_rate
        self._page = page
        self.read = Read()
        self.largest_seq = 0

    def run(self, done: threading.Event) -> None:
        """Read until `done` is set and nothing is left."""
        while not self._term(done):
            self.read.crashes += 1

    def _term(self, done: threading.Event) -> bool:
        with ExitStack() as stack:
            store = self._kit.store()
            stack.callback(store.close)
            lease = store.acquire(self._relay, "default", new_owner(), -1.0)
            reader = store.reader(lease)
            while True:
                finished = done.is_set()
                page = reader.read(self._page, 10_000_000)
                if page is None and finished:
                    return True
                if page is None:
                    continue
                self._hand_out(page.batch, page.records)
                if self._draw.random() < self.crash_rate:
                    return False
                if self._draw.random() < 0.2:
                    store.save(lease, page.end, -1.0)

    def _hand_out(self, batch: int, records: list[Record]) -> None:
        cut = len(records)
        if self._draw.random() < self.crash_rate:
            cut = self._draw.randint(0, len(records))
        for record in records[:cut]:
            seq, _, _, key, payload, *_ = record
            self.largest_seq = max(self.largest_seq, seq)
            self.read.seen.append(((batch, seq), key, int(payload)))
        if cut < len(records):
            raise ReaderCrashed


class ReaderCrashed(Exception):
    """The reader died in the middle of a page."""


LOG = "(select key, convert_from(payload, 'UTF8')::int as number from outbox_message) as log"


def stress(
    kit: StoreKit, *, seconds: float, seed: int, crash_rate: float = 0.0, truth: str = LOG
) -> Findings:
    """Write and read at the same time; return what the checker finds.

    `truth`: a table of the key and number of everything committed, if it is not the log.
    """
    reader = CrashingReader(kit, seed, crash_rate)
    (findings,) = stress_readers(kit, [reader], seconds=seconds, seed=seed, truth=truth)
    return findings


def stress_readers(
    kit: StoreKit, readers: list[CrashingReader], *, seconds: float, seed: int, truth: str = LOG
) -> list[Findings]:
    """Write and read by several relay names at the same time; return what each has found."""
    writers = Writers(kit, seed)
    done = threading.Event()
    failures: list[BaseException] = []

    def run(reader: CrashingReader) -> None:
        while True:
            try:
                return reader.run(done)
            except ReaderCrashed:
                reader.read.crashes += 1
            except BaseException as error:
                failures.append(error)
                return None

    threads = [threading.Thread(target=run, args=(reader,), daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    writers.run(seconds)
    done.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    with psycopg.connect(kit.url.conninfo) as connection:
        committed = connection.execute(f"select key, number from {truth}").fetchall()
    return [check(reader.read, set(committed), reader.crash_rate > 0) for reader in readers]


def check(read: Read, truth: set[tuple[str, int]], repeats_allowed: bool) -> Findings:
    """Compare what was read with what was committed."""
    seen = [(key, number) for _, key, number in read.seen]
    first: dict[tuple[str, int], tuple[int, int]] = {}
    last_number: dict[str, int] = {}
    out_of_order = moved = late = 0
    highest = (0, 0)
    previous_seq = 0
    for position, key, number in read.seen:
        if (key, number) in first:
            moved += first[key, number] != position
            continue
        first[key, number] = position
        out_of_order += number <= last_number.get(key, 0)
        last_number[key] = number
        moved += position <= highest
        highest = max(highest, position)
        late += position[1] < previous_seq
        previous_seq = position[1]
    repeated = 0 if repeats_allowed else len(seen) - len(set(seen))
    return Findings(
        rows=len(truth),
        late=late,
        missing=len(truth - set(seen)),
        phantoms=len(set(seen) - truth),
        repeated=repeated,
        out_of_order=out_of_order,
        moved=moved,
    )
