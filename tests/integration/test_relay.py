"""The relay's own decisions, with a publisher in memory and a clock that the test sets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from outbox.errors import BrokerUnavailable, ConfigurationError, MessageRefused
from outbox.publishers.base import DeliveryFailed
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay.relay import Pass, Relay
from outbox.relay.settings import RelaySettings
from outbox.store.owner import new_owner
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, keys, read_all
from tests.terms import begin_term
from tests.waiting import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SilentPublisher(MemoryPublisher):
    """Takes messages and acknowledges none, until `speaks`."""

    speaks = False

    def poll(self, timeout_s: float) -> None:
        if self.speaks:
            super().poll(timeout_s)


@pytest.fixture
def kit(sqlite_kit: StoreKit) -> StoreKit:  # noqa: F811
    return sqlite_kit


def relay_on(
    kit: StoreKit,
    make: Callable[[], Any],
    clock: Callable[[], float] | None = None,
    **settings: Any,
) -> Relay:
    more = {} if clock is None else {"clock": clock}
    return Relay(kit.store(), make, RelaySettings(**settings), **more)


def keys_of(published: list[PublishedMessage]) -> list[str | None]:
    return [message.key for message in published]


class TestOnePass:
    def test_it_sends_what_is_committed_and_says_what_it_did(self, kit: StoreKit) -> None:
        kit.commit("a", "b")
        published: list[PublishedMessage] = []

        with relay_on(kit, lambda: MemoryPublisher(published)) as relay:
            assert relay.run_once() == Pass(read=2, delivered=2)
            assert relay.run_once() == Pass()
            kit.commit("c")
            assert relay.run_once() == Pass(read=1, delivered=1)

        assert keys_of(published) == ["a", "b", "c"]

    def test_it_says_that_another_process_has_the_lane(self, kit: StoreKit) -> None:
        holder = kit.store()
        acquire(holder)

        with relay_on(kit, MemoryPublisher) as relay:
            assert relay.run_once() == Pass(held_by_another=True)

    def test_positions_name_log_relay_lane_batch_and_seq(self, kit: StoreKit) -> None:
        kit.commit("a", "b")
        published: list[PublishedMessage] = []

        with relay_on(kit, lambda: MemoryPublisher(published)) as relay:
            relay.run_once()

        positions = [dict(message.headers)["outbox-position"].decode() for message in published]
        log_id, name, lane, batch, seq = positions[0].split("/")
        assert (name, lane, seq) == ("default", "default", "1")
        assert positions[1] == f"{log_id}/default/default/{batch}/2"

    def test_after_a_failed_delivery_the_rest_is_sent_again_in_order(self, kit: StoreKit) -> None:
        kit.commit(*"abcdef")
        published: list[PublishedMessage] = []
        publishers = iter([MemoryPublisher(published, fail_at=3), MemoryPublisher(published)])

        with relay_on(kit, lambda: next(publishers)) as relay:
            with pytest.raises(DeliveryFailed):
                relay.run_once()
            relay.run_once()

        assert keys_of(published) == [*"abc", *"def"]

    def test_a_broker_that_never_acknowledges_is_given_up_and_nothing_is_lost(
        self, kit: StoreKit
    ) -> None:
        kit.commit("a")
        clock = Clock()

        class Stopped(SilentPublisher):
            def poll(self, timeout_s: float) -> None:
                clock.now += 1.0

        published: list[PublishedMessage] = []
        publishers = iter([Stopped(), MemoryPublisher(published)])
        with relay_on(kit, lambda: next(publishers), clock, connect_timeout_s=5.0) as relay:
            with pytest.raises(BrokerUnavailable, match="has not answered for 5 s"):
                relay.run_once()
            relay.run_once()

        assert keys_of(published) == ["a"]

    def test_what_lies_behind_a_message_that_cannot_be_sent_is_not_sent_with_every_attempt(
        self, kit: StoreKit
    ) -> None:
        """For instance while the right to write to its topic is missing."""
        kit.commit(*map(str, range(500)))
        published: list[PublishedMessage] = []

        class Forbidding(MemoryPublisher):
            """Refuses one message, and takes those behind it."""

            def publish(self, records: Any, *rest: Any) -> None:
                super().publish(records, *rest)
                self.refuses = any(record[3] == "100" for record in records)

            def poll(self, timeout_s: float) -> None:
                if getattr(self, "refuses", False):
                    published.extend(message for message, _, _ in self._waiting)
                    raise DeliveryFailed("not authorized")
                super().poll(timeout_s)

        with relay_on(kit, lambda: Forbidding(published)) as relay:
            for _ in range(10):
                with pytest.raises(DeliveryFailed):
                    relay.run_once()

        # The first attempt sends them all; the next ones begin with one message each
        assert keys_of(published)[:501].count("100") == 1
        assert len(published) < 900, len(published)
        # And what can be sent has been
        with relay_on(kit, lambda: MemoryPublisher(published)) as relay:
            relay.run_once()
        assert set(keys_of(published)) == set(map(str, range(500)))


class TestTheLease:
    def test_a_relay_that_lost_the_lane_in_flight_stops_and_its_cursor_write_changes_nothing(
        self, kit: StoreKit
    ) -> None:
        # Given a relay with a batch in flight
        kit.commit("a", "b")
        publisher = SilentPublisher()
        relay = relay_on(kit, lambda: publisher)
        term = begin_term(relay)
        term.step(0)
        # When another one takes the lane, and the acknowledgements come after that
        kit.writer().execute("update outbox_cursor set lease_until = 0")
        successor = kit.store()
        lease = successor.acquire("default", "default", new_owner(), LEASE_S)
        publisher.speaks = True
        kit.commit("c")
        # Then it stops, and the successor's cursor is where it was
        assert relay.run_once() == Pass(held_by_another=True)
        relay.close()
        successor.save(lease, lease.position, LEASE_S)
        assert keys(read_all(successor.reader(lease))) == ["a", "b", "c"]

    def test_a_relay_that_was_frozen_beyond_its_lease_sends_nothing_more(
        self, kit: StoreKit
    ) -> None:
        clock = Clock()
        published: list[PublishedMessage] = []
        relay = relay_on(kit, lambda: MemoryPublisher(published), clock)
        kit.commit("a")
        relay.run_once()

        kit.commit("b")
        clock.now += RelaySettings().lease_s  # and nobody has taken the lane: it cannot know
        assert relay.run_once() == Pass(held_by_another=True)
        assert keys_of(published) == ["a"]
        relay.close()

    def test_an_idle_relay_keeps_its_lease(self, kit: StoreKit) -> None:
        clock = Clock()
        relay = relay_on(kit, MemoryPublisher, clock)
        for _ in range(20):
            clock.now += RelaySettings().lease_s / 3
            assert relay.run_once() == Pass()
        relay.close()

    def test_closing_gives_the_lane_back(self, kit: StoreKit) -> None:
        relay = relay_on(kit, MemoryPublisher)
        relay.run_once()
        relay.close()

        acquire(kit.store())

    def test_a_publisher_that_cannot_be_made_leaves_the_lane_free(self, kit: StoreKit) -> None:
        def fail() -> MemoryPublisher:
            raise ConfigurationError("no such property")

        with relay_on(kit, fail) as relay, pytest.raises(ConfigurationError):
            relay.run_once()

        acquire(kit.store())

    def test_another_cluster_than_before_is_refused_until_rebound(self, kit: StoreKit) -> None:
        with relay_on(kit, lambda: MemoryPublisher(cluster_id="one")) as relay:
            relay.run_once()
        with (
            relay_on(kit, lambda: MemoryPublisher(cluster_id="two")) as relay,
            pytest.raises(ConfigurationError, match="relays rebind default"),
        ):
            relay.run_once()
        kit.store().rebind_relay("default")
        with relay_on(kit, lambda: MemoryPublisher(cluster_id="two")) as relay:
            assert relay.run_once() == Pass()


class Running:
    """A relay in a thread of its own."""

    def __init__(self, relay: Relay, *, drain: bool = False) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(relay, drain), daemon=True)
        self._thread.start()

    def _run(self, relay: Relay, drain: bool) -> None:
        try:
            relay.run(self.stop, drain=drain)
        except BaseException as error:
            self.error = error

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()

    def end(self) -> None:
        self.stop.set()
        self._thread.join(30)
        assert self.ended


class TestForGood:
    def relay(self, kit: StoreKit, make: Callable[[], Any], **settings: Any) -> Relay:
        """SQLite's connections belong to a thread, so the relay opens its own there."""
        from outbox.store.opening import open_store

        return Relay(open_store(kit.url, kit.names), make, RelaySettings(**settings))

    def test_it_goes_on_until_told_to_stop(self, kit: StoreKit) -> None:
        published: list[PublishedMessage] = []
        running = Running(self.relay(kit, lambda: MemoryPublisher(published)))
        for key in "abc":
            kit.commit(key)
            wait_until(lambda key=key: key in keys_of(published), what=f"message {key}")

        assert not running.ended
        running.end()
        acquire(kit.store())

    def test_a_drain_ends_by_itself(self, kit: StoreKit) -> None:
        kit.commit(*"abc")
        published: list[PublishedMessage] = []
        running = Running(self.relay(kit, lambda: MemoryPublisher(published)), drain=True)

        wait_until(lambda: running.ended, what="the drain to end")
        assert running.error is None
        assert keys_of(published) == [*"abc"]

    def test_a_failed_delivery_is_repeated_with_a_new_publisher_and_said_once(
        self, kit: StoreKit, caplog: pytest.LogCaptureFixture
    ) -> None:
        kit.commit(*"abc")
        published: list[PublishedMessage] = []
        made: list[MemoryPublisher] = []

        def make() -> MemoryPublisher:
            made.append(MemoryPublisher(published, fail_at=0 if len(made) < 3 else None))
            return made[-1]

        with caplog.at_level("INFO", logger="outbox.relay"):
            running = Running(self.relay(kit, make), drain=True)
            wait_until(lambda: running.ended, what="the drain to end")

        assert running.error is None
        assert keys_of(published) == [*"abc"]
        said = [record.getMessage() for record in caplog.records]
        assert len([s for s in said if "waiting" in s]) == 1, said
        assert "going on" in said

    def test_without_retries_a_message_the_broker_refuses_ends_it_and_loses_nothing(
        self, kit: StoreKit
    ) -> None:
        class Refusing(MemoryPublisher):
            def publish(self, records: Any, *rest: Any) -> None:
                raise MessageRefused("too large")

        kit.commit("a")
        running = Running(self.relay(kit, Refusing, retry=None))
        wait_until(lambda: running.ended, what="the relay to end")

        assert isinstance(running.error, MessageRefused)
        store = kit.store()
        assert keys(read_all(store.reader(acquire(store)))) == ["a"]

    def test_a_second_relay_stands_by_and_takes_over_at_once(self, kit: StoreKit) -> None:
        published: list[PublishedMessage] = []
        first = Running(self.relay(kit, lambda: MemoryPublisher(published)))
        kit.commit("a")
        wait_until(lambda: published, what="the first message")
        second = Running(self.relay(kit, lambda: MemoryPublisher(published)))
        wait_until(
            lambda: "standby" in [p.state for p in kit.store().status()[0].processes],
            what="the second to stand by",
        )
        first.end()
        kit.commit("b")

        wait_until(lambda: len(published) == 2, what="the second to take over", timeout=5)
        assert keys_of(published) == ["a", "b"]
        second.end()
