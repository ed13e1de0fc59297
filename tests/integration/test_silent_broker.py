"""A broker that takes messages and never says what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from outbox.errors import BrokerUnavailable
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay.relay import Pass, Relay
from outbox.relay.settings import RelaySettings
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture

if TYPE_CHECKING:
    from tests.conformance.store_kit import StoreKit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Silent(MemoryPublisher):
    """Acknowledges nothing for so many seconds, one for each time that it is asked."""

    def __init__(self, clock: Clock, seconds: int) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds

    def poll(self, timeout_s: float) -> None:
        self._clock.now += 1
        self._seconds -= 1
        if self._seconds < 0:
            super().poll(timeout_s)


def relay(kit: StoreKit, clock: Clock, *publishers: MemoryPublisher) -> Relay:
    settings = RelaySettings(connect_timeout_s=1000)
    return Relay(kit.store(), iter(publishers).__next__, settings, clock=clock)


def test_a_broker_that_stays_silent_costs_the_relay_its_lane(
    sqlite_kit: StoreKit,  # noqa: F811 - the fixture
) -> None:
    # Given a message that a broker has taken, and does not acknowledge
    sqlite_kit.commit("a")
    clock = Clock()
    with relay(sqlite_kit, clock, Silent(clock, 1000)) as cut_off:
        with pytest.raises(BrokerUnavailable, match="is not acknowledged"):
            cut_off.run_once()
        # Then another relay, whose network may be better, can have the lane
        published: list[PublishedMessage] = []
        with relay(sqlite_kit, clock, MemoryPublisher(published)) as other:
            assert other.run_once() == Pass(read=1, delivered=1)
    assert [message.key for message in published] == ["a"]


def test_a_broker_that_is_slow_does_not(sqlite_kit: StoreKit) -> None:  # noqa: F811 - the fixture
    sqlite_kit.commit("a")
    clock = Clock()
    with relay(sqlite_kit, clock, Silent(clock, 55)) as patient:
        assert patient.run_once() == Pass(read=1, delivered=1)
