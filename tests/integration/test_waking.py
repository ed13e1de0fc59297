"""A relay that waits is woken, and keeps its lane however long it waits."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from outbox import Notifier, Outbox
from outbox.database import DatabaseUrl
from outbox.errors import ConfigurationError
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.relay.waking import Polling, Waker
from outbox.store.opening import open_store
from outbox.store.postgresql.listener import Listener
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import StoreKit
from tests.servers.availability import require
from tests.servers.pgbouncer import PgBouncer
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

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


class Watched:
    """Passes on to a waker, and counts the waits of a relay that has nothing to do."""

    def __init__(self, waker: Waker) -> None:
        self._waker = waker
        self.rests = self.waits = 0

    def patience_s(self, seconds: float) -> float:
        self.rests += 1
        return self._waker.patience_s(seconds)

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waits += 1
        return self._waker.wait(stop, seconds)

    def rests_again(self) -> None:
        """Wait until the relay has looked at the log and found nothing."""
        before = self.rests
        wait_until(lambda: self.rests > before, what="the relay to have nothing to do")


class Bell(Polling):
    """Waits for an hour, or until it is rung."""

    def __init__(self) -> None:
        self.rung = threading.Event()

    def patience_s(self, seconds: float) -> float:
        assert seconds < HOUR
        return HOUR

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        woken = self.rung.wait(min(seconds, LEASE_S)) or stop.is_set()
        self.rung.clear()
        return woken


@pytest.fixture
def kit(postgresql_url: str) -> Iterator[StoreKit]:
    kit = StoreKit(DatabaseUrl.parse(postgresql_url))
    yield kit
    kit.close()


@contextmanager
def listening(
    kit: StoreKit, poll_interval_s: float = HOUR, url: DatabaseUrl | None = None
) -> Iterator[Listener]:
    listener = Listener(url or kit.url, kit.names, poll_interval_s=poll_interval_s, echo_s=2.0)
    with listener:
        yield listener


@contextmanager
def woken(kit: StoreKit, poll_interval_s: float = HOUR) -> Iterator[list[PublishedMessage]]:
    """Run a relay that hears, and has nothing to do; yield what it publishes."""
    with listening(kit, poll_interval_s) as listener:
        wait_until(lambda: listener.hears, what="the listener to hear")
        waker = Watched(listener)
        with relaying(kit, waker) as published:
            # Twice: the first wait ends at once, for what was written before it heard.
            wait_until(lambda: waker.rests >= 2, what="the relay to have nothing to do")
            yield published


def keys(published: list[PublishedMessage]) -> list[str | None]:
    return [message.key for message in published]


def arrives(published: list[PublishedMessage], *wanted: str) -> None:
    wait_until(lambda: keys(published) == [*wanted], what=f"{wanted}, not {keys(published)}")


def test_a_relay_that_waits_longer_than_its_lease_keeps_the_lane(
    sqlite_kit: StoreKit,  # noqa: F811 - the fixture
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Given a relay that waits for an hour when there is nothing to do
    bell = Bell()
    waker = Watched(bell)
    with caplog.at_level("WARNING", "outbox.relay"), relaying(sqlite_kit, waker) as published:
        wait_until(lambda: waker.waits, what="the relay to have nothing to do")
        # When its lease would have been over, had it not been renewed
        sqlite_kit.commit("a")
        wait_until(lambda: waker.waits > 8, what="two leases to pass")
        assert published == []
        # And somebody wakes it
        bell.rung.set()
        # Then it sends what is there, and has not lost the lane meanwhile
        arrives(published, "a")
    assert caplog.records == []


def test_a_notification_wakes_a_relay_that_would_wait_for_an_hour(kit: StoreKit) -> None:
    with woken(kit) as published, Notifier(kit.url.conninfo) as notifier:
        kit.commit("a")
        notifier.wake()
        arrives(published, "a")
        kit.commit("b")
        notifier.wake()
        arrives(published, "a", "b")


def test_a_lost_notification_costs_one_poll(kit: StoreKit) -> None:
    with woken(kit, poll_interval_s=0.5) as published:
        kit.commit("a")
        arrives(published, "a")


def test_whoever_notifies_within_the_time_between_two_is_heard_all_the_same(kit: StoreKit) -> None:
    with woken(kit) as published, Notifier(kit.url.conninfo, every_s=0.2) as notifier:
        written = [str(number) for number in range(20)]
        for key in written:
            kit.commit(key)
            notifier.wake()
        arrives(published, *written)


def test_a_watched_engine_notifies_after_transactions_that_wrote_messages(
    kit: StoreKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(sqlalchemy_url(kit))
    events = Outbox()
    woke: list[None] = []
    with Notifier(kit.url.conninfo) as notifier:
        monkeypatch.setattr(notifier, "wake", lambda: woke.append(None))
        notifier.watch(engine)
        # Neither for what wrote no message, nor for what was rolled back
        with engine.begin() as connection:
            connection.execute(text("select 1"))
        with engine.connect() as connection:
            events.add(connection, "t", b"x")
            connection.rollback()
        with Session(engine) as session:
            events.add(session, "t", b"x")
        assert woke == []
        # But for each that committed a message
        with Session(engine) as session, session.begin():
            events.add(session, "t", b"x")
        with engine.begin() as connection:
            events.add(connection, "t", b"x")
        assert len(woke) == 2
        # Also when the connection is kept
        with engine.connect() as connection:
            events.add(connection, "t", b"x")
            connection.commit()
            connection.execute(text("select 1"))
            assert len(woke) == 3
    engine.dispose()


def test_a_watched_engine_wakes_a_relay(kit: StoreKit) -> None:
    engine = create_engine(sqlalchemy_url(kit))
    with woken(kit) as published, Notifier(kit.url.conninfo) as notifier:
        notifier.watch(engine)
        with Session(engine) as session, session.begin():
            Outbox().add(session, "t", b"x", key="a")
        arrives(published, "a")
    engine.dispose()


def sqlalchemy_url(kit: StoreKit) -> str:
    parameters = dict(kit.url.parameters)
    return (
        f"postgresql+psycopg://{parameters['user']}@{parameters['host']}:{parameters['port']}"
        f"/{parameters['dbname']}"
    )


@pytest.mark.parametrize("away", ["refuses", "is silent"])
def test_a_writer_whose_notifier_is_cut_off_commits_at_once(
    kit: StoreKit, away: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a notifier whose database refuses, or takes every byte and says nothing
    port = int(dict(kit.url.parameters)["port"])
    with Proxy(port) as proxy:
        proxy.refuse() if away == "refuses" else proxy.swallow()
        url = kit.url.conninfo.replace(f"port={port}", f"port={proxy.port}")
        notifier = Notifier(url)
        # When messages are committed
        began = time.monotonic()
        for number in range(50):
            kit.commit(str(number))
            notifier.wake()
            assert time.monotonic() - began < 60, "the notifier holds its writer up"
        # Then it has not waited, and at the most one line says so
        if away == "refuses":
            wait_until(lambda: caplog.records, what="a warning")
            (record,) = caplog.records
            assert "cannot be notified" in record.getMessage()
        ended = time.monotonic()
        notifier.close()
        assert time.monotonic() - ended < 10


def test_a_forked_process_notifies_too(kit: StoreKit) -> None:
    with woken(kit) as published, Notifier(kit.url.conninfo) as notifier:
        kit.commit("parent")
        notifier.wake()
        arrives(published, "parent")
        kit.commit("child")
        if (child := os.fork()) == 0:
            notifier.wake()
            notifier.close()
            os._exit(0)
        os.waitpid(child, 0)
        arrives(published, "parent", "child")


def test_a_relay_hears_again_after_its_connection_broke(
    kit: StoreKit, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.store.postgresql.listener._RETRY_S", 0.2)
    with woken(kit) as published, psycopg.connect(kit.url.conninfo, autocommit=True) as admin:
        # Given messages of which nobody tells, When the connection breaks
        kit.commit("a")
        admin.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'outbox-relay listener'"
        )
        # Then the relay looks at once, says what happened, and is woken again afterwards
        arrives(published, "a")
        wait_until(lambda: "do not wake the relay" in caplog.text, what="a warning")


def test_through_a_pooler_in_transaction_mode_the_relay_says_so_and_polls(
    kit: StoreKit, caplog: pytest.LogCaptureFixture
) -> None:
    parameters = dict(kit.url.parameters)
    address = f"postgresql://{parameters['user']}@{parameters['host']}:{parameters['port']}"
    with require(lambda: PgBouncer(f"{address}/{parameters['dbname']}")) as pooler:
        url = DatabaseUrl.parse(pooler.url)
        with listening(kit, url=url) as listener, relaying(kit, listener) as published:
            wait_until(lambda: "pooler in transaction mode" in caplog.text, what="a warning")
            assert not listener.hears
            kit.commit("a")
            arrives(published, "a")


def test_notifications_go_through_such_a_pooler(kit: StoreKit) -> None:
    parameters = dict(kit.url.parameters)
    address = f"postgresql://{parameters['user']}@{parameters['host']}:{parameters['port']}"
    with (
        require(lambda: PgBouncer(f"{address}/{parameters['dbname']}")) as pooler,
        woken(kit) as published,
        Notifier(pooler.url) as notifier,
    ):
        kit.commit("a")
        notifier.wake()
        arrives(published, "a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"database_url": "sqlite:///shop.db"}, "only PostgreSQL"),
        ({"database_url": "mysql://localhost/shop"}, "is not a database this version knows"),
        ({"database_url": "postgresql:///shop", "every_s": -1}, "every_s must not be negative"),
        ({"database_url": "postgresql:///shop", "table_prefix": "A b"}, "table_prefix"),
    ],
)
def test_a_notifier_that_cannot_work_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        Notifier(arguments.pop("database_url"), **arguments)
