"""A relay sends what waited, when it is due; with a publisher in memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outbox.database import DatabaseUrl
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay.relay import Pass, Relay
from outbox.relay.settings import RelaySettings
from outbox.relay.waking import Polling, Waker
from outbox.writer.outbox import Outbox
from tests.conformance.schedule_suite import epoch, insert, move_all, now, schedule_rows, waiting
from tests.conformance.store_kit import StoreKit
from tests.waiting import wait_until

POLL_S = 0.05
#: How much later than it should a busy machine may do something, in seconds.
BUSY_S = 3.0


@pytest.fixture
def postgresql_kit(postgresql_url: str) -> Iterator[StoreKit]:
    kit = StoreKit(DatabaseUrl.parse(postgresql_url))
    yield kit
    kit.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreKit]:
    if request.param == "postgresql":
        yield request.getfixturevalue("postgresql_kit")
        return
    kit = StoreKit(DatabaseUrl.parse(f"sqlite:///{tmp_path}/log.db"))
    yield kit
    kit.close()


@contextmanager
def relaying(
    kit: StoreKit,
    make: Callable[[], Any],
    *,
    drain: bool = False,
    waker: Waker | None = None,
    **more: Any,
) -> Iterator[threading.Thread]:
    """Run a relay in a thread."""
    stop = threading.Event()
    settings = RelaySettings(poll_interval_s=POLL_S, **more)

    def run() -> None:
        # SQLite wants its connections used in the thread that made them.
        relay = Relay(kit.unconnected(), make, settings, waker=waker)
        relay.run(stop, drain=drain)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


def test_what_is_due_in_a_moment_is_sent_then_and_not_before(kit: StoreKit) -> None:
    published: list[PublishedMessage] = []
    with relaying(kit, lambda: MemoryPublisher(published)):
        # Given a relay that has nothing to do
        kit.commit("first")
        wait_until(lambda: len(published) == 1, what="the first message")
        # When messages are written that are due in a moment, the last first
        schedule_rows(kit, ("third", 0.5), ("second", 0.3))
        due = dict(kit.writer().execute(f"select key, {epoch(kit)} from outbox_scheduled"))
        # Then they are sent in the order of their times
        wait_until(lambda: len(published) == 3, what="the messages that were due")
    assert [message.key for message in published] == ["first", "second", "third"]
    # None before its time, and each within the poll interval after it
    moved = dict(
        kit.writer().execute(
            f"select key, {epoch(kit, 'created_at')} from outbox_message where key <> 'first'"
        )
    )
    assert all(-0.001 <= moved[key] - due[key] <= POLL_S + BUSY_S for key in due)


class Bell(Polling):
    """Waits for an hour, or until it is rung."""

    def __init__(self) -> None:
        self.rung = threading.Event()

    def patience_s(self, _: float) -> float:
        return 3600.0

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        woken = self.rung.wait(min(seconds, 0.5)) or stop.is_set()
        self.rung.clear()
        return woken


def test_a_relay_that_waits_to_be_woken_rests_until_something_is_due(kit: StoreKit) -> None:
    published: list[PublishedMessage] = []
    bell = Bell()
    with relaying(kit, lambda: MemoryPublisher(published), waker=bell, lease_s=2.0):
        # Given a relay that would rest for an hour
        kit.commit("first")
        bell.rung.set()
        wait_until(lambda: len(published) == 1, what="the first message")
        # When it is told of a message that is due in a moment
        schedule_rows(kit, ("second", 0.6))
        bell.rung.set()
        # Then it sends it without being told again
        wait_until(lambda: len(published) == 2, what="the message that was due", timeout=10)


def test_one_pass_sends_what_is_due(kit: StoreKit) -> None:
    published: list[PublishedMessage] = []
    schedule_rows(kit, ("later", 3600.0))
    with Relay(kit.store(), lambda: MemoryPublisher(published)) as relay:
        assert relay.run_once() == Pass()
        schedule_rows(kit, ("b", -1.0), ("a", -2.0))
        assert relay.run_once() == Pass(read=2, delivered=2)
    assert [message.key for message in published] == ["a", "b"]
    assert waiting(kit) == ["later"]


def test_a_drain_leaves_what_is_not_due_aside(kit: StoreKit) -> None:
    published: list[PublishedMessage] = []
    kit.commit("now")
    schedule_rows(kit, ("later", 3600.0))
    with relaying(kit, lambda: MemoryPublisher(published), drain=True) as thread:
        wait_until(lambda: not thread.is_alive(), what="the end of the drain")
    assert [message.key for message in published] == ["now"]
    assert waiting(kit) == ["later"]


def test_what_is_released_is_sent_in_the_order_of_writing(kit: StoreKit) -> None:
    published: list[PublishedMessage] = []
    events = Outbox()
    with kit.transaction() as connection:
        for key in ("a", "b", "c"):
            insert(kit, connection, key, "wait_for", "'payment'")
        insert(kit, connection, "other", "wait_for", "'shipment'")
    with relaying(kit, lambda: MemoryPublisher(published)):
        with kit.transaction() as connection:
            assert events.release(connection, "payment") == 3
        wait_until(lambda: len(published) >= 3, what="what was released")
    assert [message.key for message in published] == ["a", "b", "c"]
    assert waiting(kit) == ["other"]


def test_each_message_is_either_cancelled_or_sent(kit: StoreKit) -> None:
    # Given many messages that are due about now, or late, and an application that cancels them all
    events = Outbox()

    def delay_s(number: int) -> float:
        return 0.002 * number if number < 140 else 3600.0

    with kit.transaction() as connection:
        ids = [
            events.add(connection, "t", {}, key=str(i), delay=timedelta(seconds=delay_s(i))).id
            for i in range(150)
        ]
    cancelled: list[int] = []

    def cancel() -> None:
        connection = kit.writer()
        for number in reversed(range(150)):
            with kit.transaction(connection):
                if events.cancel(connection, ids[number]):
                    cancelled.append(number)
        connection.close()

    published: list[PublishedMessage] = []
    with relaying(kit, lambda: MemoryPublisher(published)):
        # When a relay sends them at the same time
        wait_until(lambda: published, what="the first message")
        thread = threading.Thread(target=cancel)
        thread.start()
        thread.join()
        wait_until(lambda: not waiting(kit), what="the end of all that is scheduled")
        wait_until(lambda: len(cancelled) + len(published) >= 150, what="the last message")
    # Then each has one of the two fates
    sent = [int(message.key or -1) for message in published]
    assert sorted([*cancelled, *sent]) == list(range(150))
    assert sent == sorted(sent)
    assert cancelled
    assert sent


@pytest.mark.postgresql
def test_a_cancellation_that_is_not_decided_yet_holds_nobody_up(
    postgresql_kit: StoreKit,
) -> None:
    kit = postgresql_kit
    schedule_rows(kit, ("undecided", -2.0), ("after", -1.0))
    # Given a transaction that has cancelled a message that is due, and has not ended
    writer = kit.writer()
    writer.execute("begin")
    writer.execute("delete from outbox_scheduled where key = 'undecided'")
    # Then others are moved
    schedule = kit.store().schedule()
    assert move_all(schedule) == 1
    assert kit.keys_in_log() == ["after"]
    # And it is itself when the transaction is rolled back
    writer.execute("rollback")
    assert move_all(schedule) == 1
    assert kit.keys_in_log() == ["after", "undecided"]


@pytest.mark.postgresql
def test_what_cannot_be_moved_is_said_and_stops_nothing_else(
    postgresql_kit: StoreKit,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kit = postgresql_kit
    published: list[PublishedMessage] = []
    caplog.set_level(logging.INFO, logger="outbox.relay")
    schedule_rows(kit, ("due", -1.0))
    kit.writer().execute(
        "alter table outbox_message add constraint mine check (key <> 'due') not valid"
    )
    with relaying(kit, lambda: MemoryPublisher(published)):
        kit.commit("now")
        wait_until(lambda: published, what="what can be sent")
        complaint = "scheduled messages are not sent"
        wait_until(lambda: complaint in caplog.text, what="a complaint")
        # Said once, and tried again until it is mended
        kit.writer().execute("alter table outbox_message drop constraint mine")
        wait_until(lambda: len(published) == 2, what="the message that was due")
    assert [message.key for message in published] == ["now", "due"]
    assert caplog.text.count(complaint) == 1


@pytest.mark.postgresql
def test_what_is_committed_after_its_time_is_found_while_a_report_holds_back_vacuum(
    postgresql_kit: StoreKit,
) -> None:
    kit = postgresql_kit
    published: list[PublishedMessage] = []
    kit.writer().execute(
        "insert into outbox_scheduled (topic, key, due_at)"
        f" select 't', g::text, {now(kit, '-60')} from generate_series(1, 20000) as g"
    )
    # Given a transaction that writes a message for long ago, and does not end
    slow = kit.writer()
    slow.execute("begin")
    insert(kit, slow, "slow", "due_at", now(kit, "-30"))
    # And a report that can see everything which is moved meanwhile
    with kit.transaction() as report:
        report.execute("set transaction isolation level repeatable read")
        report.execute("select count(*) from outbox_scheduled")
        with relaying(kit, lambda: MemoryPublisher(published)):
            wait_until(lambda: len(published) == 20_000, what="what was due")
            # When the slow one commits, then its message is found
            slow.execute("commit")
            wait_until(lambda: len(published) == 20_001, what="the message of the slow one")
    assert published[-1].key == "slow"
