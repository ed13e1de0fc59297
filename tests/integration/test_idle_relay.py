"""A relay that has nothing to do asks little, and finds at once what comes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.record import Page
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.lanes import Lane
from outbox.store.postgresql.reader import PostgreSQLReader
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import StoreKit


class StepClock:
    """A clock that goes on when the relay rests, and a Waker that rests without waiting."""

    def __init__(self, after: int, then: Callable[[], None]) -> None:
        self.now, self.rests, self._after, self._then = 1000.0, 0, after, then

    def __call__(self) -> float:
        return self.now

    def patience_s(self, seconds: float) -> float:
        return seconds

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.now += seconds
        self.rests += 1
        if self.rests == self._after:
            self._then()
        if self.rests == self._after + 40:
            stop.set()
        return stop.is_set()


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    return postgresql_kit


def test_an_idle_relay_glances_once_for_all_its_streams_and_misses_nothing(
    kit: StoreKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a relay of four streams that has nothing to do
    kit.store().change_lanes([Lane("default", shards=4)])
    published: list[PublishedMessage] = []
    clock = StepClock(60, lambda: kit.commit("a", "b", "c"))
    reads: list[float] = []
    read = PostgreSQLReader.read

    def counted(reader: PostgreSQLReader, max_rows: int, max_bytes: int) -> Page | None:
        reads.append(clock.now)
        return read(reader, max_rows, max_bytes)

    monkeypatch.setattr(PostgreSQLReader, "read", counted)
    relay = Relay(
        kit.store(),
        lambda: MemoryPublisher(published),
        RelaySettings(),
        clock=clock,
        waker=clock,
    )
    # When it rests for a long time, and something is written after that
    relay.run(threading.Event())
    # Then what was written is sent, and in between a fifth of the rests had a whole round
    assert sorted(message.key or "" for message in published) == ["a", "b", "c"]
    idle = [at for at in reads if 1001.0 < at < 1002.0]
    assert 0 < len(idle) <= 4 * 5
