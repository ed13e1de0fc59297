"""Several writers, lanes with shards, and relay processes that share them."""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import LiteralString

import psycopg

from outbox.database import DatabaseUrl
from outbox.names import Names
from outbox.store.lanes import Lane
from outbox.store.opening import open_store
from tests.acceptance.command import Running
from tests.acceptance.relay_process import PAUSE_OF_FLOW, Scene
from tests.servers.process import process_state
from tests.waiting import wait_until

WRITERS = 8
KEYS = 48

#: Every key has its lane for good: order is promised within one.
_LANE_OF: LiteralString = """case when right(key, 1) in ('0', '5') then 'urgent'
    when right(key, 1) in ('3', '8') then 'bulk' end"""

_WRITE: LiteralString = f"""
    with locked as (select key from counter where key = any(%(keys)s) order by key for update),
         drawn as (update counter set number = number + %(each)s
                    where key in (select key from locked) returning key, number)
    insert into outbox_message (topic, key, lane, payload)
    select %(topic)s, key, {_LANE_OF}, convert_to((number - %(each)s + i)::text, 'UTF8')
      from drawn, generate_series(1, %(each)s) as i order by i, key"""

_TAKE_BACK: LiteralString = f"""
    insert into outbox_message (topic, key, lane, payload)
    select %(topic)s, key, {_LANE_OF}, '0' from counter"""


class LaneScene(Scene):
    """A scene whose messages name lanes."""

    @classmethod
    def of(cls, scene: Scene) -> LaneScene:
        """Take a scene over, and give it more keys."""
        made = cls(scene.url, scene.kafka, scene.commands, scene.topic, scene.started)
        made.query("truncate counter")
        made.query(
            "insert into counter select 'k' || i, 0 from generate_series(1, %(n)s) i", n=KEYS
        )
        return made

    # Writing

    def _write(self, connection: psycopg.Connection, each: int, padding: int = 0) -> None:
        self._write_keys(connection, [f"k{n}" for n in range(1, KEYS + 1)], each)

    def _write_keys(self, connection: psycopg.Connection, keys: list[str], each: int) -> None:
        connection.execute(_WRITE, {"keys": keys, "each": each, "topic": self.topic})

    def write_keys(self, keys: Sequence[str], each: int) -> None:
        """Commit the next `each` messages of some keys."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            self._write_keys(connection, list(keys), each)

    @contextmanager
    def writers(self, count: int = WRITERS) -> Iterator[None]:
        """Let so many write at the same time, each a few keys in a transaction."""
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._keep_writing, args=(random.Random(n), stop))
            for n in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _keep_writing(self, rng: random.Random, stop: threading.Event) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            while not stop.wait(PAUSE_OF_FLOW):
                keys = [f"k{rng.randint(1, KEYS)}" for _ in range(3)]
                with connection.transaction():
                    self._write_keys(connection, keys, rng.randint(1, 3))
                    # Others commit in between, so that numbers are not in the order of commits.
                    stop.wait(rng.choice((0.0, 0.0, 0.005)))
                if rng.random() < 0.1:
                    self._take_back(connection)

    def _take_back(self, connection: psycopg.Connection) -> None:
        with connection.transaction(force_rollback=True):
            connection.execute(_TAKE_BACK, {"topic": self.topic})

    # Lanes

    def lanes(self, *lanes: Lane) -> None:
        """Make these the lanes, and do not wait for the relays to take that up."""
        with closing(open_store(DatabaseUrl.parse(self.url), Names())) as store:
            store.connect()
            store.change_lanes(lanes)

    def holders(self, relay: str = "default") -> dict[str, int]:
        """Return the process id of who holds which stream now."""
        rows = self.query(
            "select lane, owner from outbox_cursor"
            " where relay = %(relay)s and lease_until > clock_timestamp()",
            relay=relay,
        )
        return {lane: _pid(owner) for lane, owner in rows}

    def streams(self, relay: str = "default") -> set[str]:
        rows = self.query("select lane from outbox_cursor where relay = %(relay)s", relay=relay)
        return {lane for (lane,) in rows}

    def wait_until_shared(
        self, *processes: Running, relay: str = "default", timeout: float = 30.0
    ) -> None:
        """Wait until each of them has as many streams as any other, give or take one."""
        pids = [each.process.pid for each in processes]

        def fair() -> bool:
            holders = self.holders(relay)
            counts = Counter(holders.values())
            shares = [counts.pop(pid, 0) for pid in pids]
            everything = holders.keys() == self.streams(relay)
            return everything and not counts and max(shares) - min(shares) <= 1

        try:
            wait_until(fair, what=f"a fair share for {pids}", timeout=timeout)
        except AssertionError as late:
            said = "".join(line for each in processes for line in each.lines[-30:])
            raise AssertionError(f"{late}: {self.holders(relay)}; they said:\n{said}") from None

    def seen(self, process: Running) -> Running:
        """Wait until a process has started, which may take long on a busy machine."""
        wait_until(
            lambda: self.query(
                "select from outbox_process where process like %(name)s",
                name=f"%pid={process.process.pid} %",
            ),
            what="the process to say that it is there",
            timeout=60.0,
        )
        return process

    def wait_for_change(self, *lanes: Lane, timeout: float = 60.0) -> None:
        """Wait until there are the streams of these lanes and no others, and all are at work."""
        wanted = {stream for lane in lanes for stream in lane.streams}
        wait_until(
            lambda: self.streams() == wanted == self.holders().keys(),
            what=f"the lanes {sorted(wanted)}, with {self.holders()}",
            timeout=timeout,
        )

    def wait_for_progress(self, timeout: float = 60.0) -> None:
        """Wait until what is committed now has been sent, or something after it."""
        self.wait_until_delivered(timeout)


def freeze(process: Running) -> None:
    process.process.send_signal(19)
    wait_until(lambda: process_state(process.process.pid)[0] == "T", what="the frozen state")


def _pid(owner: str | None) -> int:
    found = re.search(r"pid=(\d+)", owner or "")
    return int(found[1]) if found else 0
