"""Failures, retries, operators, crashes and take-overs in any order, against a model.

Whatever happens: nothing is lost, what is repeated was in doubt, and no key is out of order.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from outbox.config.retry_rules import RetryPolicy, RetryRules
from outbox.database import DatabaseUrl
from outbox.errors import MessageRefused
from outbox.publishers.base import DeliveryFailed, PageRefused, TopicUnavailable
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.record import Record
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.held import Action, HeldFilter
from outbox.store.opening import open_store
from outbox.writer.editing import Changes, edited
from tests.conformance.store_kit import StoreKit
from tests.servers.postgresql import PostgreSQLServer

#: The next attempt is due at once, and each run of the relay makes few of them.
POLICY = RetryPolicy(delay="fixed", first_s=0.001, max_attempts=2)
KEYS, TOPICS = "ab-", "tu"
OPERATOR = Action("018f3f1e-0000-7000-8000-000000000001", "me", "here", "test", {})


class Killed(BaseException):
    """The process ends here, without a word."""


@dataclass
class World:
    """The broker, and what is to happen."""

    bad: set[int] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    late: bool = False
    #: After so many calls of the database and the broker the process is killed.
    life: int = 10**9
    published: list[PublishedMessage] = field(default_factory=list)

    def live(self) -> None:
        self.life -= 1
        if self.life < 0:
            raise Killed

    def publisher(self) -> MemoryPublisher:
        return Erring(self)


def number_of(payload: bytes | None) -> int:
    return int(json.loads(payload or b"0"))


class Erring(MemoryPublisher):
    """Refuses what it is told to, before or after it is sent."""

    def __init__(self, world: World) -> None:
        super().__init__(world.published)
        self._world = world
        self._broken: Exception | None = None

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Any,
        check: Callable[[], None],
    ) -> None:
        self._world.live()
        if not self._world.late:
            topics = {record[2] for record in records} & self._world.missing
            if topics:
                raise TopicUnavailable("missing", dict.fromkeys(topics, "missing"))
            bad = [i for i, record in enumerate(records) if number_of(record[4]) in self._world.bad]
            if bad:
                raise PageRefused(dict.fromkeys(bad, "too large"))
        super().publish(records, position_prefix, delivery, check)

    def poll(self, timeout_s: float) -> None:
        waiting, self._waiting = list(self._waiting), type(self._waiting)()
        for message, delivery, index in waiting:
            self._world.live()
            if self._broken is None and number_of(message.payload) in self._world.bad:
                self._broken = MessageRefused("too large")
            elif self._broken is None and message.topic in self._world.missing:
                self._broken = TopicUnavailable("gone", {message.topic: "gone"})
            if self._broken is not None:
                break
            self._waiting.append((message, delivery, index))
            super().poll(timeout_s)
        if self._broken is not None:
            raise self._broken


@contextmanager
def mortal(store: Any, world: World) -> Iterator[Any]:
    """Let the process be killed before and after each change of the database."""
    held = store.held()

    def around(call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*args: Any, **kwargs: Any) -> Any:
            world.live()
            result = call(*args, **kwargs)
            world.live()
            return result

        return made

    for name in ("hold", "settle", "wake"):
        setattr(held, name, around(getattr(held, name)))
    store.held = lambda: held
    store.save = around(store.save)
    yield store


@dataclass
class Machine:
    kit: StoreKit
    world: World = field(default_factory=World)
    written: list[tuple[str, str | None, int]] = field(default_factory=list)
    discarded: set[int] = field(default_factory=set)
    crashed: bool = False
    batch: int = 7
    edited: int = 0

    def write(self, keys: str, topic: str) -> None:
        mark = "?" if self.kit.url.dialect == "sqlite" else "%s"
        sql = f"insert into outbox_message (topic, key, payload) values ({mark}, {mark}, {mark})"
        with self.kit.transaction() as connection:
            for letter in keys:
                key, number = None if letter == "-" else letter, len(self.written) + 1
                connection.execute(sql, (topic, key, str(number).encode()))
                self.written.append((topic, key, number))

    def fail(self, number: int) -> None:
        self.world.bad ^= {1 + number % (len(self.written) + 3)}

    def lose_topic(self, topic: str) -> None:
        self.world.missing ^= {topic}

    def tell_late(self, late: bool) -> None:
        self.world.late = late

    def requeue(self) -> None:
        self._operate("requeue", HeldFilter("default", ("dead",)))

    def discard_dead(self) -> None:
        self._operate("discard", HeldFilter("default", ("dead",)))

    def discard_key(self, topic: str, key: str) -> None:
        self._operate("discard", HeldFilter("default", topic=topic, key=key))

    def edit_dead(self, which: int) -> None:
        """Replace a dead message by one that is told apart by its length only."""
        store = self.kit.store()
        admin = store.held_admin()
        found = admin.find(HeldFilter("default", ("dead",)), 100)
        if found:
            message = found[which % len(found)]
            old = admin.content("default", message.seq)
            assert old is not None
            new = edited(old, Changes(payload=b" " + bytes(old.payload or b"")))
            assert admin.edit(message, "default", new, OPERATOR)
            self.edited += 1
        store.close()

    def _operate(self, verb: str, which: HeldFilter) -> None:
        store = self.kit.store()
        before = self._held()
        admin, mark = store.held_admin(), None
        while True:
            more = {} if mark is None else {"after" if verb == "requeue" else "before": mark}
            _, mark = getattr(admin, verb)(which, 2, OPERATOR, **more)
            if mark is None:
                break
        self.discarded |= before - self._held()
        store.close()

    def _held(self) -> set[int]:
        rows = self.kit.writer().execute("select payload from outbox_held").fetchall()
        return {number_of(bytes(payload)) for (payload,) in rows}

    def run(self, life: int | None) -> None:
        """Let a relay process work until it is killed, or has nothing more to do for now."""
        self.world.life = 10**9 if life is None else life
        store = open_store(self.kit.url, self.kit.names)
        settings_ = RelaySettings(retry=RetryRules(POLICY), page_messages=self.batch)
        with mortal(store, self.world) as mortal_store:
            relay = Relay(mortal_store, self.world.publisher, settings_)
            try:
                for _ in range(4):
                    with suppress(DeliveryFailed, TopicUnavailable):
                        relay.run_once()
            except Killed:
                self.crashed = True
                # Nothing is given back: the lane is taken from the dead.
                relay._store.close()
                self._let_the_lease_run_out()
                return
        self.world.life = 10**9
        relay.close()

    def _let_the_lease_run_out(self) -> None:
        extra = "" if self.kit.url.dialect == "sqlite" else ", written_by = pg_current_xact_id()"
        self.kit.writer().execute(f"update outbox_cursor set owner = null{extra}")
        self.kit.writer().execute("delete from outbox_process")

    def settle_everything(self) -> None:
        """Mend all, requeue what is dead, and let the rest go."""
        self.world.bad.clear()
        self.world.missing.clear()
        self.requeue()
        for _ in range(60):
            self.run(None)
            if not self._held():
                return
            self.requeue()
        raise AssertionError(f"still held: {self._held()}")

    def check(self) -> None:
        arrived: dict[tuple[str, str | None], list[int]] = defaultdict(list)
        for message in self.world.published:
            arrived[message.topic, message.key].append(number_of(message.payload))
        for topic, key, number in self.written:
            assert number in arrived[topic, key] or number in self.discarded, (
                f"message {number} of key {key} was lost"
            )
        for (topic, key), numbers in arrived.items():
            firsts = list(dict.fromkeys(numbers))
            assert set(firsts) <= {n for t, k, n in self.written if (t, k) == (topic, key)}
            if key is not None:
                assert firsts == sorted(firsts), f"key {key} of {topic}: {numbers}"
            if not self.crashed and not self.world.late:
                assert len(firsts) == len(numbers), f"repeated: {numbers}"


STEPS = st.one_of(
    st.tuples(st.just("write"), st.text(KEYS, min_size=1, max_size=6), st.sampled_from(TOPICS)),
    st.tuples(st.just("fail"), st.integers(0, 30)),
    st.tuples(st.just("lose_topic"), st.sampled_from(TOPICS)),
    st.tuples(st.just("requeue")),
    st.tuples(st.just("edit_dead"), st.integers(0, 9)),
    st.tuples(st.just("discard_dead")),
    st.tuples(st.just("discard_key"), st.sampled_from(TOPICS), st.sampled_from("ab")),
    st.tuples(st.just("run"), st.none() | st.integers(0, 25)),
    st.tuples(st.just("run"), st.none() | st.integers(0, 25)),
)
STORIES = st.lists(STEPS, min_size=3, max_size=14)
FAST = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.explicit, Phase.generate, Phase.shrink),
}


def live_through(kit: StoreKit, story: list[tuple[Any, ...]], late: bool) -> Machine:
    machine = Machine(kit)
    machine.tell_late(late)
    for verb, *arguments in story:
        getattr(machine, verb)(*arguments)
    machine.settle_everything()
    machine.check()
    return machine


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    probes = RetryPolicy(delay="fixed", first_s=0.001, max_attempts=None)
    monkeypatch.setattr("outbox.relay.holding._PROBES", probes)
    monkeypatch.setattr("outbox.relay.holding._LOOK_S", 0.001)


@given(story=STORIES, late=st.booleans())
@settings(max_examples=60, **FAST)
def test_any_story_ends_well_on_sqlite(story: list[tuple[Any, ...]], late: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        kit = StoreKit(DatabaseUrl.parse(f"sqlite:///{Path(directory)}/log.db"))
        try:
            live_through(kit, story, late)
        finally:
            kit.close()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("life", range(0, 24, 2))
def test_edited_messages_keep_their_place_whenever_the_relay_is_killed(
    tmp_path: Path, life: int, *, late: bool
) -> None:
    kit = StoreKit(DatabaseUrl.parse(f"sqlite:///{tmp_path}/log.db"))
    story = [
        ("write", "aabaa", "t"),
        ("fail", 0),
        ("run", None),
        ("edit_dead", 0),
        ("run", life),
        ("write", "ab", "t"),
        ("requeue",),
        ("run", None),
        ("edit_dead", 0),
        ("fail", 0),
        ("run", life),
    ]
    machine = live_through(kit, story, late)
    kit.close()
    assert machine.edited > 1


@pytest.mark.postgresql
def test_any_story_ends_well_on_postgresql(postgresql_server: PostgreSQLServer) -> None:
    @given(story=STORIES, late=st.booleans())
    @settings(max_examples=12, **FAST)
    def every(story: list[tuple[Any, ...]], late: bool) -> None:
        url = postgresql_server.create_database()
        kit = StoreKit(DatabaseUrl.parse(url))
        try:
            live_through(kit, story, late)
        finally:
            kit.close()
            postgresql_server.drop_database(urlsplit(url).path[1:])

    every()


def test_the_model_catches_an_order_that_was_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let nothing be blocked, and see it found out."""
    kit = StoreKit(DatabaseUrl.parse(f"sqlite:///{tmp_path}/log.db"))
    monkeypatch.setattr("outbox.relay.holding.Holding._stopped_of", lambda *_: set())
    story = [("write", "a", "t"), ("fail", 0), ("run", None), ("write", "a", "t"), ("run", None)]
    with pytest.raises(AssertionError, match="key a of t"):
        live_through(kit, story, late=False)
    kit.close()


def test_the_model_catches_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit = StoreKit(DatabaseUrl.parse(f"sqlite:///{tmp_path}/log.db"))
    monkeypatch.setattr("outbox.store.sqlite_held.SQLiteHeld.hold", lambda *_: None)
    story = [("write", "a", "t"), ("fail", 0), ("run", None)]
    with pytest.raises(AssertionError, match="was lost"):
        live_through(kit, story, late=False)
    kit.close()
