"""A relay that waits is woken, and keeps its lane however long it waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.relay.waking import Polling, Waker
from outbox.store.opening import open_store
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.conformance.store_kit import StoreKit

HOUR = 3600.0
LEASE_S = 1.0


@contextmanager
def relaying(kit: StoreKit, waker: Waker) -> Iterator[list[PublishedMessage]]:
    """Run a relay in a thread of its own; yield what it publishes."""
    published: list[PublishedMessage] = []
    relay = Relay(
        open_store(kit.url, kit.names),
        lambda: MemoryPublisher(published),
        RelaySettings(lease_s=LEASE_S),
        waker=waker,
    )
    stop = threading.Event()
    thread = threading.Thread(target=relay.run, args=(stop,))
    thread.start()
    try:
        yield published
    finally:
        stop.set()
        thread.join()


class Bell(Polling):
    """Waits for an hour, or until it is rung."""

    def __init__(self) -> None:
        self.rung = threading.Event()
        self.waits = 0

    def patience_s(self, seconds: float) -> float:
        assert seconds < HOUR
        return HOUR

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waits += 1
        woken = self.rung.wait(seconds) or stop.is_set()
        self.rung.clear()
        return woken


@pytest.fixture
def kit(sqlite_kit: StoreKit) -> StoreKit:  # noqa: F811
    return sqlite_kit


def test_a_relay_that_waits_longer_than_its_lease_keeps_the_lane(
    kit: StoreKit, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a relay that waits for an hour when there is nothing to do
    bell = Bell()
    with caplog.at_level("WARNING", "outbox.relay"), relaying(kit, bell) as published:
        # When its lease has been over, had it not been renewed
        wait_until(lambda: bell.waits, what="the relay to have nothing to do")
        kit.commit("a")
        wait_until(lambda: bell.waits > 2 * LEASE_S / (LEASE_S / 4), what="two leases to pass")
        assert published == []
        # And somebody wakes it
        bell.rung.set()
        # Then it sends what is there, and has not lost the lane meanwhile
        wait_until(lambda: published, what="the message")
        bell.rung.set()
    assert caplog.records == []
