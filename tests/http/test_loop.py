"""The heartbeat of a real loop: it stops when the loop does, whatever the loop did before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from outbox.database import DatabaseUrl
from outbox.errors import DatabaseUnavailable, MessageRefused
from outbox.http.health import Health
from outbox.metrics import catalogue
from outbox.metrics.monitor import RelayMonitor
from outbox.publishers.memory import MemoryPublisher
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.opening import open_store
from tests.conformance.store_kit import StoreKit
from tests.waiting import wait_until


class Stuck(RelayMonitor):
    """A relay that comes to a halt in code of its own, when told to."""

    def __init__(self) -> None:
        super().__init__("default", stall_s=0.3)
        self.go = threading.Event()
        self.go.set()

    def progressed(self) -> None:
        self.go.wait()
        super().progressed()


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[StoreKit]:
    with closing(StoreKit(DatabaseUrl.parse(f"sqlite:///{tmp_path}/log.db"))) as made:
        yield made


@contextmanager
def running(kit: StoreKit, monitor: RelayMonitor) -> Iterator[None]:
    """Run a relay in a thread of its own; SQLite's connection belongs to it."""
    stop = threading.Event()

    def relay() -> None:
        store = open_store(kit.url, kit.names)
        Relay(store, MemoryPublisher, RelaySettings(), observer=monitor).run(stop)

    thread = threading.Thread(target=relay)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_loop_that_halts_in_its_own_code_is_dead_and_one_that_goes_on_lives_again(
    kit: StoreKit,
) -> None:
    # Given a relay at work
    monitor = Stuck()
    health = Health(monitor, lambda: False)
    with running(kit, monitor):
        kit.commit("a", "b")
        sent = catalogue.SENT
        wait_until(lambda: monitor.figures.value(sent, "t") == 2, what="the messages")
        assert health.live().ok
        # When it halts, then it is dead, and says for how long
        monitor.go.clear()
        wait_until(lambda: not health.live().ok, what="the relay to be dead")
        assert "the relay's loop has not turned for" in (health.live().reason or "")
        assert not health.whole()[0]
        # And when it goes on, it is alive
        monitor.go.set()
        wait_until(lambda: health.live().ok, what="the relay to be alive again")
    # And at its end it holds nothing
    assert monitor.figures.value(catalogue.LEADER, "default") == 0


def test_one_pass_is_observed_as_a_loop_is(kit: StoreKit) -> None:
    monitor = RelayMonitor("default")
    kit.commit("a", "b", "c")
    with Relay(kit.store(), MemoryPublisher, observer=monitor) as relay:
        assert relay.run_once().delivered == 3
        assert monitor.figures.value(catalogue.LEADER, "default") == 1
    assert monitor.figures.value(catalogue.SENT, "t") == 3
    assert monitor.figures.value(catalogue.IN_FLIGHT) == 0
    assert monitor.pulse.look().server is None


class Refusing(MemoryPublisher):
    """Takes no message."""

    def publish(self, *_: object) -> None:
        raise MessageRefused("too large")


def test_a_message_that_is_refused_is_counted_before_the_relay_ends(kit: StoreKit) -> None:
    monitor = RelayMonitor("default")
    kit.commit("a")
    relay = Relay(kit.store(), Refusing, RelaySettings(retry=None), observer=monitor)
    with pytest.raises(MessageRefused):
        relay.run(threading.Event())
    assert monitor.figures.value(catalogue.REFUSED) == 1
    assert monitor.pulse.look().server is None


def test_every_way_out_of_a_call_ends_the_wait(kit: StoreKit) -> None:
    """A wait that never ended would make a dead loop look alive for ever."""
    monitor = RelayMonitor("default")
    kit.commit("a")
    relay = Relay(kit.store(), MemoryPublisher, RelaySettings(), observer=monitor)

    def fail(*_: object) -> None:
        raise DatabaseUnavailable("away")

    relay._store.save = fail  # type: ignore[method-assign]  # a database that goes away
    with pytest.raises(DatabaseUnavailable):
        relay.run_once()
    assert monitor.pulse.look().server is None
    relay.close()
