"""A message whose time is over is not sent, and not dropped without a word either."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from outbox.config.retry_rules import RetryPolicy, RetryRules
from outbox.database import DatabaseUrl
from outbox.errors import InvalidMessage
from outbox.message import Message
from outbox.publishers.base import PageRefused
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.record import Record
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.held import Action, HeldFilter
from outbox.writer.outbox import Outbox
from tests.conformance.schedule_suite import waiting
from tests.conformance.store_kit import StoreKit, acquire, read_all
from tests.waiting import wait_until

EVENTS = Outbox()
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreKit]:
    url = f"sqlite:///{tmp_path}/log.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    kit = StoreKit(DatabaseUrl.parse(url))
    yield kit
    kit.close()


def add(kit: StoreKit, key: str, payload: bytes, **given: Any) -> Message:
    with kit.transaction() as connection:
        return EVENTS.add(connection, "t", payload, key=key, **given)


def held(kit: StoreKit) -> list[tuple[Any, ...]]:
    rows = (
        kit.writer()
        .execute("select key, payload, state, blocks from outbox_held order by seq")
        .fetchall()
    )
    return [(key, bytes(payload), state, bool(blocks)) for key, payload, state, blocks in rows]


def now() -> datetime:
    return datetime.now(UTC)


@pytest.mark.parametrize("retry", [None, RetryRules()], ids=["without retries", "with retries"])
def test_what_has_expired_is_kept_aside_and_its_key_goes_on(
    kit: StoreKit, retry: RetryRules | None
) -> None:
    # Given a message whose time is over, between others of its key
    add(kit, "k", b"before")
    add(kit, "k", b"over", expires_at=now() - HOUR)
    add(kit, "k", b"after", expires_at=now() + HOUR)
    add(kit, "other", b"last", expires_at=now() - HOUR)
    published: list[PublishedMessage] = []
    # When a relay comes to them
    settings = RelaySettings(retry=retry)
    with Relay(kit.store(), lambda: MemoryPublisher(published), settings) as relay:
        relay.run_once()
        relay.run_once()
    # Then it sends the others, and keeps a row of each that it did not send
    assert [message.payload for message in published] == [b"before", b"after"]
    assert held(kit) == [("k", b"over", "expired", False), ("other", b"last", "expired", False)]


def test_the_clock_of_the_database_decides_when_the_message_is_read(kit: StoreKit) -> None:
    add(kit, "k", b"", expires_at=now() + timedelta(milliseconds=300))
    store = kit.store()
    lease = acquire(store)

    def expired() -> bool | None:
        (page,) = read_all(store.reader(lease))
        return Record(*page.records[0]).expired

    assert not expired()
    wait_until(expired, what="the time to be over")


def test_what_expires_before_it_is_due_is_kept_aside(kit: StoreKit) -> None:
    add(kit, "k", b"x", delay=timedelta(0), expires_at=now() - HOUR)
    published: list[PublishedMessage] = []
    with Relay(kit.store(), lambda: MemoryPublisher(published)) as relay:
        relay.run_once()
    assert waiting(kit) == []
    assert (published, held(kit)) == ([], [("k", b"x", "expired", False)])


class Away(MemoryPublisher):
    """Refuses some payloads."""

    def __init__(self, published: list[PublishedMessage], refused: set[bytes]) -> None:
        super().__init__(published)
        self._refused = refused

    def publish(self, records: list[Record], *more: Any) -> None:
        reasons = {n: "too large" for n, each in enumerate(records) if each[4] in self._refused}
        if reasons:
            raise PageRefused(reasons)
        super().publish(records, *more)


def expire(kit: StoreKit, payload: bytes) -> None:
    """Let the time of a held message be over."""
    earlier, mark = ("now() - interval '1 s'", "%s") if kit.has_snapshots else ("1.0", "?")
    kit.writer().execute(
        f"update outbox_held set expires_at = {earlier} where payload = {mark}", (payload,)
    )


def test_what_expires_while_it_is_held_is_not_tried_again(kit: StoreKit) -> None:
    # Given messages that are tried again, and others of their keys behind them
    refused = {b"a1", b"b1"}
    for key in ("a", "b"):
        add(kit, key, f"{key}1".encode(), expires_at=now() + HOUR)
        add(kit, key, f"{key}2".encode())
    published: list[PublishedMessage] = []
    soon = RetryRules(RetryPolicy(delay="fixed", first_s=0.01))
    settings = RelaySettings(retry=soon)
    with Relay(kit.store(), lambda: Away(published, refused), settings) as relay:
        relay.run_once()
        # When the time of one is over, and then nothing stands in their way any more
        expire(kit, b"a1")
        refused.clear()

        def done() -> bool:
            relay.run_once()
            return len(held(kit)) == 1

        wait_until(done, what="the messages to go, or to expire")
    # Then it is kept aside and its key goes on; the other one goes
    by_key = {key: [m.payload for m in published if m.key == key] for key in ("a", "b")}
    assert by_key == {"a": [b"a2"], "b": [b"b1", b"b2"]}
    assert held(kit) == [("a", b"a1", "expired", False)]


def test_what_expired_while_it_was_dead_is_not_sent_when_it_is_requeued(kit: StoreKit) -> None:
    # Given a dead message whose time is over before it is requeued
    add(kit, "b", b"b1", expires_at=now() + HOUR)
    add(kit, "b", b"b2")
    published: list[PublishedMessage] = []
    settings = RelaySettings(retry=RetryRules(RetryPolicy(max_attempts=1)))
    with Relay(kit.store(), lambda: Away(published, {b"b1"}), settings) as relay:
        relay.run_once()
        assert [row[2] for row in held(kit)] == ["dead", "blocked"]
    expire(kit, b"b1")
    # When an operator requeues it, and nothing stands in its way any more
    action = Action("018f3f1e-0000-7000-8000-000000000001", "me", "here", "held requeue", {})
    assert kit.store().held_admin().requeue(HeldFilter("default", ("dead",)), 10, action)[0] == 1
    with Relay(kit.store(), lambda: Away(published, set()), settings) as relay:

        def done() -> bool:
            relay.run_once()
            return held(kit) == [("b", b"b1", "expired", False)]

        wait_until(done, what="the message to expire")
    # Then it is not sent, and what waited behind it is
    assert [message.payload for message in published] == [b"b2"]


def test_several_are_written_with_their_expiry(kit: StoreKit) -> None:
    at = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    messages = [Message("t", {}, expires_at=at), Message("t", {}), Message("t", {}, delay=HOUR)]
    with kit.transaction() as connection:
        EVENTS.add_all(connection, [*messages, Message("t", {}, delay=HOUR, expires_at=at)])
    seconds = "extract(epoch from expires_at)::float8" if kit.has_snapshots else "expires_at"
    for table, number in (("outbox_message", "seq"), ("outbox_scheduled", "no")):
        rows = kit.writer().execute(f"select {seconds} from {table} order by {number}").fetchall()
        expected = {at.timestamp(), None}
        assert {None if row[0] is None else round(row[0], 6) for row in rows} == expected


def test_an_expiry_that_cannot_be_meant_is_refused() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    for expires_at in (at, at - HOUR):
        with pytest.raises(InvalidMessage, match="is not after deliver_at"):
            Message("t", {}, deliver_at=at, expires_at=expires_at)
    assert Message("t", {}, deliver_at=at, expires_at=at + HOUR).expires_at == at + HOUR
