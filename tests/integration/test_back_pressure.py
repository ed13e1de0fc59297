"""What a relay does that is paused, or may only go so fast, with a broker in memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from outbox.database import DatabaseUrl
from outbox.http.health import Health
from outbox.metrics import catalogue
from outbox.metrics.monitor import RelayMonitor
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.held import Action
from outbox.store.lanes import Lane
from outbox.store.owner import new_owner
from outbox.store.pauses import Target
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import LEASE_S, StoreKit
from tests.waiting import wait_until


@pytest.fixture
def kit(sqlite_kit: StoreKit) -> StoreKit:  # noqa: F811
    return sqlite_kit


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def either(request: pytest.FixtureRequest) -> Iterator[StoreKit]:
    """Give a log on each database."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_kit")
        return
    kit = StoreKit(DatabaseUrl.parse(request.getfixturevalue("postgresql_url")))
    yield kit
    kit.close()


def write(kit: StoreKit, *messages: str, topic: str = "t", lane: str | None = None) -> None:
    """Write messages such as "a1": of key a, with the payload a1."""
    mark = "?" if kit.url.dialect == "sqlite" else "%s"
    with kit.transaction() as connection:
        for message in messages:
            connection.execute(
                "insert into outbox_message (topic, key, payload, lane)"
                f" values ({mark}, {mark}, {mark}, {mark})",
                (topic, message[0], message.encode(), lane),
            )


def pause(kit: StoreKit, target: Target) -> None:
    action = Action("018f3f1e-0000-7000-8000-000000000001", "ada", "here", "pause", {})
    assert kit.store().pauses().pause(target, "a test", action)


def resume(kit: StoreKit, target: Target) -> None:
    action = Action("018f3f1e-0000-7000-8000-000000000002", "ada", "here", "resume", {})
    assert kit.store().pauses().resume([target], action)


class Running:
    """A relay in a thread of its own, with its monitor and what it published."""

    def __init__(self, kit: StoreKit, *, drain: bool = False, **settings: Any) -> None:
        self.published: list[PublishedMessage] = []
        self.monitor = RelayMonitor("default")
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.relay = Relay(
            kit.unconnected(),
            lambda: MemoryPublisher(self.published),
            RelaySettings(**settings),
            observer=self.monitor,
        )
        self._thread = threading.Thread(target=self._run, args=(drain,), daemon=True)
        self._thread.start()

    def _run(self, drain: bool) -> None:
        try:
            self.relay.run(self.stop, drain=drain)
        except BaseException as error:
            self.error = error

    @property
    def payloads(self) -> list[str]:
        return [(message.payload or b"").decode() for message in self.published]

    def until(self, condition: Callable[[], object], what: str) -> None:
        wait_until(lambda: self.error or condition(), what=what)
        assert self.error is None

    def until_ended(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.error is None


@pytest.fixture
def running() -> Iterator[Callable[..., Running]]:
    """Start relays, and end them."""
    all_of_them: list[Running] = []

    def start(kit: StoreKit, **given: Any) -> Running:
        all_of_them.append(Running(kit, **given))
        return all_of_them[-1]

    yield start
    for each in all_of_them:
        each.stop.set()
        each.until_ended()


class TestAPausedLane:
    def test_nothing_of_it_is_sent_until_it_is_resumed(
        self, either: StoreKit, running: Callable[..., Running]
    ) -> None:
        # Given a relay that runs
        relay = running(either)
        write(either, "a1", "b1")
        relay.until(lambda: relay.payloads == ["a1", "b1"], "what was written first")
        # When its lane is paused, it notices without being told
        pause(either, Target(lane="default"))
        relay.until(lambda: relay.monitor.paused_lanes, "the relay to see the pause")
        write(either, "a2", "b2", "a3")
        # Then the lag grows and nothing is sent, while the lane stays where it is
        store = either.store()
        (status,) = store.status("default")
        assert status.lag_messages == 3
        assert store.acquire("default", "default", new_owner(), LEASE_S) is None
        relay.until(lambda: store.status("default")[0].processes[0].state == "paused", "its word")
        assert relay.payloads == ["a1", "b1"]
        # and afterwards it all goes, in order
        resume(either, Target(lane="default"))
        relay.until(lambda: len(relay.payloads) == 5, "what had waited")
        assert relay.payloads[2:] == ["a2", "b2", "a3"]

    def test_the_others_flow(self, kit: StoreKit, running: Callable[..., Running]) -> None:
        kit.store().change_lanes([Lane("default"), Lane("bulk", -10), Lane("urgent", 10)])
        pause(kit, Target("default", "urgent"))
        relay = running(kit)
        write(kit, "a1", lane="urgent")
        write(kit, "b1", lane="bulk")
        write(kit, "c1")

        relay.until(lambda: len(relay.payloads) == 2, "the lanes that are not paused")

        assert sorted(relay.payloads) == ["b1", "c1"]
        assert relay.monitor.figures.value(catalogue.PAUSED, "urgent") == 1
        resume(kit, Target("default", "urgent"))
        relay.until(lambda: "a1" in relay.payloads, "the lane that was paused")
        relay.until(
            lambda: relay.monitor.figures.value(catalogue.PAUSED, "urgent") == 0, "the metric"
        )

    def test_another_relay_name_is_not_concerned(
        self, kit: StoreKit, running: Callable[..., Running]
    ) -> None:
        kit.store().create_relay("audit", "earliest")
        pause(kit, Target("default"))
        write(kit, "a1")

        audit, default = running(kit, name="audit"), running(kit)

        audit.until(lambda: audit.payloads == ["a1"], "the other relay name")
        default.until(lambda: default.monitor.paused_lanes, "the pause to be seen")
        assert default.payloads == []

    def test_the_lease_is_renewed_and_the_relay_stays_ready(
        self, kit: StoreKit, running: Callable[..., Running]
    ) -> None:
        pause(kit, Target())
        relay = running(kit, lease_s=1.0)
        relay.until(lambda: relay.monitor.lanes, "the lane to be taken")
        reader = kit.writer()

        def lease() -> float:
            (until,) = reader.execute("select lease_until from outbox_cursor").fetchone()
            return float(until)

        first = lease()
        relay.until(lambda: lease() > first + 1.5, "the lease to be renewed")

        health = Health(relay.monitor, lambda: False)
        healthy, everything = health.whole()
        assert healthy
        assert health.ready().ok
        assert (everything["state"], everything["paused"]) == ("paused", ["default"])


class TestADrain:
    def test_it_ends_and_says_what_is_paused_when_messages_are_left(
        self, kit: StoreKit, running: Callable[..., Running]
    ) -> None:
        kit.store().change_lanes([Lane("default"), Lane("bulk")])
        pause(kit, Target(lane="bulk"))
        write(kit, "a1", lane="bulk")
        write(kit, "b1")

        relay = running(kit, drain=True)
        relay.until_ended()

        assert relay.payloads == ["b1"]
        assert relay.relay.left_paused == {"bulk"}

    def test_a_pause_that_holds_nothing_back_is_no_matter(
        self, kit: StoreKit, running: Callable[..., Running]
    ) -> None:
        kit.store().change_lanes([Lane("default"), Lane("bulk")])
        pause(kit, Target(lane="bulk"))
        write(kit, "b1")

        relay = running(kit, drain=True)
        relay.until_ended()

        assert relay.payloads == ["b1"]
        assert relay.relay.left_paused == frozenset()


def held(kit: StoreKit) -> dict[str, str]:
    rows = kit.writer().execute("select payload, state from outbox_held order by seq")
    return {bytes(payload).decode(): state for payload, state in rows}


class TestAPausedTopic:
    def test_its_messages_wait_beside_the_log_and_the_others_flow(
        self, either: StoreKit, running: Callable[..., Running]
    ) -> None:
        # Given a topic that is paused
        pause(either, Target(topic="orders"))
        write(either, "a1", "b1", "a2", topic="orders")
        write(either, "c1")
        relay = running(either)
        # Then only what is of others is sent
        relay.until(lambda: relay.payloads == ["c1"], "the other topic")
        relay.until(lambda: len(held(either)) == 3, "the messages to be held")
        assert held(either) == {"a1": "retrying", "b1": "retrying", "a2": "blocked"}
        assert relay.monitor.paused_lanes == frozenset()
        # When it is resumed, then it goes in the order of each key, before what is newer
        write(either, "a3", topic="orders")
        relay.until(lambda: "a3" in held(either), "the newest to be held")
        resume(either, Target(topic="orders"))
        write(either, "a4", "b2", topic="orders")
        relay.until(lambda: len(relay.payloads) == 7, "all of it")
        assert [each for each in relay.payloads if each[0] == "a"] == ["a1", "a2", "a3", "a4"]
        assert [each for each in relay.payloads if each[0] == "b"] == ["b1", "b2"]
        relay.until(lambda: not held(either), "nothing to be held any more")

    def test_a_pause_survives_the_relay(
        self, kit: StoreKit, running: Callable[..., Running]
    ) -> None:
        pause(kit, Target(topic="orders"))
        write(kit, "a1", topic="orders")
        first = running(kit)
        first.until(lambda: held(kit) == {"a1": "retrying"}, "the message to be held")
        first.stop.set()
        first.until_ended()

        # When another process takes over, and messages of other topics come by
        second = running(kit)
        write(kit, "c1")
        second.until(lambda: second.payloads == ["c1"], "the other topic")

        resume(kit, Target(topic="orders"))
        second.until(lambda: second.payloads == ["c1", "a1"], "what had waited")

    def test_what_is_due_for_its_own_reasons_waits_as_well(
        self, kit: StoreKit, running: Callable[..., Running]
    ) -> None:
        # Given a held message whose next attempt is due, of a topic that is paused
        pause(kit, Target(topic="orders"))
        kit.writer().execute(
            """insert into outbox_held (relay, lane, seq, created_at, id, topic, key, payload,
                                        state, blocks, attempts, next_attempt_at)
               values ('default', 'default', 1, 0, '018f3f1e-0000-7000-8000-000000000001',
                       'orders', 'a', x'6131', 'retrying', 1, 2, 0)"""
        )
        relay = running(kit)

        def waits() -> bool:
            row = kit.writer().execute("select next_attempt_at, attempts from outbox_held")
            return bool(row.fetchone() == (None, 2))

        relay.until(waits, "it to wait for its topic")
        assert relay.payloads == []
        resume(kit, Target(topic="orders"))
        relay.until(lambda: relay.payloads == ["a1"], "it to be sent")


class Ticking:
    """A clock that moves on by a few milliseconds whenever it is read."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.004
        return self.now


class Timed(MemoryPublisher):
    """Notes when how many messages, and bytes, were handed over."""

    def __init__(self, published: list[PublishedMessage], clock: Ticking) -> None:
        super().__init__(published)
        self._clock = clock
        self.handed_over: list[tuple[float, int, int]] = []

    def publish(self, records: Any, *given: Any) -> None:
        size = sum(len(record[4] or b"") for record in records)
        self.handed_over.append((self._clock.now, len(records), size))
        super().publish(records, *given)


def limited(kit: StoreKit, **settings: Any) -> tuple[Timed, list[str], RelayMonitor]:
    """Let a relay with a limit send everything; return what it did."""
    clock, published = Ticking(), []  # type: ignore[var-annotated]  # as MemoryPublisher says
    publisher, monitor = Timed(published, clock), RelayMonitor("default")
    limits = RelaySettings(**settings, lease_s=600)
    with Relay(kit.store(), lambda: publisher, limits, clock=clock, observer=monitor) as relay:
        done = relay.run_once()
    assert done.delivered == len(published)
    return publisher, [(message.payload or b"").decode() for message in published], monitor


class TestALimit:
    def test_no_window_has_more_messages_than_the_rate_and_one_burst(self, kit: StoreKit) -> None:
        write(kit, *(f"{n:03}" for n in range(350)))

        publisher, payloads, monitor = limited(kit, max_messages_per_second=100)

        assert payloads == [f"{n:03}" for n in range(350)]
        for (begin, _, _), (end, total) in windows(publisher.handed_over, of=1):
            assert total <= 100 + 100 * (end - begin) + 1e-3
        spent = publisher.handed_over[-1][0] - publisher.handed_over[0][0]
        assert 2.5 <= spent < 5
        assert monitor.figures.value(catalogue.LIMITED) == 0  # now that everything is sent

    def test_bytes_count_as_well_and_a_large_message_goes_alone(self, kit: StoreKit) -> None:
        write(kit, *["a" * 100] * 15, "b" * 2000, *["c" * 100] * 15)

        publisher, payloads, _ = limited(kit, max_bytes_per_second=1000)

        assert len(payloads) == 31
        assert 2000 in {size for _, _, size in publisher.handed_over}
        for (begin, _, _), (end, total) in windows(publisher.handed_over, of=2):
            assert total <= 1000 + 1000 * (end - begin) + 2000
        spent = publisher.handed_over[-1][0] - publisher.handed_over[0][0]
        assert spent >= (5000 - 1000) / 1000 - 0.2

    def test_the_lane_with_the_higher_priority_takes_what_there_is(self, kit: StoreKit) -> None:
        kit.store().change_lanes([Lane("default"), Lane("urgent", 10)])
        write(kit, *["bulk"] * 300)
        write(kit, *["urgent"] * 300, lane="urgent")

        _, payloads, _ = limited(kit, max_messages_per_second=100)

        first = payloads[:330]
        assert first.count("urgent") >= 8 / 9 * 300
        assert payloads.count("bulk") == 300

    def test_it_is_told_while_it_holds_messages_back(
        self, kit: StoreKit, running: Callable[..., Running]
    ) -> None:
        relay = running(kit, max_messages_per_second=1, lease_s=1.0)
        write(kit, *(f"a{n}" for n in range(5)))

        relay.until(lambda: relay.monitor.figures.value(catalogue.LIMITED) == 1, "the metric")
        assert Health(relay.monitor, lambda: False).whole()[1]["limited"] is True
        relay.until(lambda: len(relay.payloads) == 5, "all of it")
        relay.until(lambda: relay.monitor.figures.value(catalogue.LIMITED) == 0, "the metric")
        # No lease was lost over waiting longer than one lasts
        assert relay.monitor.figures.value(catalogue.LEASE_LOST) == 0


def windows(
    handed_over: list[tuple[float, int, int]], *, of: int
) -> Iterator[tuple[tuple[float, int, int], tuple[float, float]]]:
    """Yield every window: its first hand-over, its end, and what was handed over in it."""
    for index, first in enumerate(handed_over):
        totals = itertools.accumulate(each[of] for each in handed_over[index:])
        for each, total in zip(handed_over[index:], totals, strict=True):
            yield first, (each[0], total)
