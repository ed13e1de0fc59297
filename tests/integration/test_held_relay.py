"""What the relay does with messages that cannot be sent, with a broker in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from outbox.config.retry_rules import RetryPolicy, RetryRules
from outbox.errors import BrokerUnavailable, MessageRefused
from outbox.metrics import catalogue
from outbox.metrics.monitor import RelayMonitor
from outbox.publishers.base import DeliveryFailed, PageRefused, TopicUnavailable
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.record import Record
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import StoreKit
from tests.waiting import wait_until

AT_ONCE = RetryPolicy(delay="fixed", first_s=0.001, max_attempts=3)
SOON = RetryPolicy(delay="fixed", first_s=0.1, max_attempts=None)
LATER = RetryPolicy(delay="fixed", first_s=3600)


@dataclass
class Broker:
    """Takes messages, but for those of some payloads and topics.

    `late`: it says so only after they were sent, as a broker does to whom nobody has listened.
    """

    bad: set[bytes] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    late: bool = False
    away: bool = False
    published: list[PublishedMessage] = field(default_factory=list)
    attempts: list[bytes | None] = field(default_factory=list)

    def publisher(self) -> BrokersPublisher:
        return BrokersPublisher(self)

    @property
    def payloads(self) -> list[bytes | None]:
        return [message.payload for message in self.published]


class BrokersPublisher(MemoryPublisher):
    def __init__(self, broker: Broker) -> None:
        super().__init__(broker.published)
        self._broker = broker
        self._broken: Exception | None = None

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Any,
        check: Callable[[], None],
    ) -> None:
        broker = self._broker
        if broker.away:
            raise DeliveryFailed("the broker is away")
        broker.attempts += [record[4] for record in records if record[4] in broker.bad]
        missing = {record[2] for record in records} & broker.missing
        bad = [index for index, record in enumerate(records) if record[4] in broker.bad]
        if missing and not broker.late:
            raise TopicUnavailable("missing", {topic: f"{topic} is missing" for topic in missing})
        if bad and not broker.late:
            raise PageRefused(dict.fromkeys(bad, "too large"))
        super().publish(records, position_prefix, delivery, check)

    def poll(self, timeout_s: float) -> None:
        if self._broken is not None:
            raise self._broken
        waiting, self._waiting = list(self._waiting), type(self._waiting)()
        for message, delivery, index in waiting:
            if message.payload in self._broker.bad:
                self._broken = MessageRefused("too large, says the broker")
            elif message.topic in self._broker.missing:
                self._broken = TopicUnavailable("gone", {message.topic: "gone"})
            if self._broken is not None:
                raise self._broken
            self._waiting.append((message, delivery, index))
            super().poll(timeout_s)


@pytest.fixture
def kit(sqlite_kit: StoreKit) -> StoreKit:  # noqa: F811
    return sqlite_kit


def relay(kit: StoreKit, broker: Broker, policy: RetryPolicy = LATER) -> Relay:
    settings = RelaySettings(retry=RetryRules(policy))
    return Relay(kit.store(), broker.publisher, settings)


def write(kit: StoreKit, *messages: str, topic: str = "t") -> None:
    """Write messages such as "a1": of key a, with the payload a1. Those of key - have none."""
    with kit.transaction() as connection:
        for message in messages:
            connection.execute(
                "insert into outbox_message (topic, key, payload) values (?, ?, ?)",
                (topic, None if message[0] == "-" else message[0], message.encode()),
            )


def held(kit: StoreKit) -> dict[str, str]:
    rows = kit.writer().execute("select payload, state from outbox_held order by seq")
    return {payload.decode(): state for payload, state in rows}


def until_empty(kit: StoreKit, running: Relay) -> None:
    def done() -> bool:
        running.run_once()
        return not held(kit)

    wait_until(done, what="nothing to be held any more")


@pytest.mark.parametrize("late", [False, True], ids=["known before", "told by the broker"])
class TestAMessageThatIsToBlame:
    def test_only_its_key_stops(self, kit: StoreKit, late: bool) -> None:
        # Given a message of key a that no broker takes, among others
        broker = Broker(bad={b"a2"}, late=late)
        write(kit, "a1", "b1", "a2", "b2", "a3", "-1", "b3")
        with relay(kit, broker) as running:
            running.run_once()
            # Then all but it, and what comes after it in its key, are there in order
            assert sorted(broker.payloads) == [b"-1", b"a1", b"b1", b"b2", b"b3"]
            assert [p for p in broker.payloads if p in (b"b1", b"b2", b"b3")] == [
                b"b1",
                b"b2",
                b"b3",
            ]
            assert held(kit) == {"a2": "retrying", "a3": "blocked"}
            # and what comes later waits as well
            write(kit, "a4", "b4")
            running.run_once()
            assert broker.payloads[-1] == b"b4"
            assert held(kit)["a4"] == "blocked"

    def test_it_is_tried_again_and_its_key_goes_on_in_order(
        self, kit: StoreKit, late: bool
    ) -> None:
        broker = Broker(bad={b"a1"}, late=late)
        write(kit, "a1", "a2", "b1", "a3")
        with relay(kit, broker, SOON) as running:
            running.run_once()
            broker.bad.clear()
            write(kit, "a4")
            until_empty(kit, running)
            write(kit, "a5")
            running.run_once()
        assert [p for p in broker.payloads if p and p[:1] == b"a"] == [
            b"a1",
            b"a2",
            b"a3",
            b"a4",
            b"a5",
        ]

    def test_what_was_held_goes_out_without_a_position(self, kit: StoreKit, late: bool) -> None:
        broker = Broker(bad={b"a1"}, late=late)
        write(kit, "a1", "b1")
        with relay(kit, broker, SOON) as running:
            running.run_once()
            broker.bad.clear()
            until_empty(kit, running)
        positions = {m.payload: m.header("outbox-position") for m in broker.published}
        assert positions[b"a1"] is None
        assert positions[b"b1"] is not None

    def test_after_the_last_attempt_it_is_dead_and_still_stops_its_key(
        self, kit: StoreKit, late: bool
    ) -> None:
        broker = Broker(bad={b"a1"}, late=late)
        write(kit, "a1", "a2")
        with relay(kit, broker, AT_ONCE) as running:
            running.run_once()
            wait_until(
                lambda: running.run_once() and held(kit)["a1"] == "dead", what="it to be dead"
            )
            assert held(kit) == {"a1": "dead", "a2": "blocked"}
            broker.bad.clear()
            for _ in range(3):
                running.run_once()
        assert broker.payloads == []
        rows = kit.writer().execute("select attempts, error from outbox_held order by seq")
        ((attempts, error), _) = list(rows)
        assert attempts == 3
        assert error.startswith("too large")

    def test_where_keys_go_on_only_it_stays_behind(self, kit: StoreKit, late: bool) -> None:
        broker = Broker(bad={b"a1", b"-1"}, late=late)
        write(kit, "a1", "a2", "-1", "-2")
        policy = RetryPolicy(delay="fixed", first_s=3600, after_failure="skip")
        with relay(kit, broker, policy) as running:
            running.run_once()
        assert sorted(broker.payloads) == [b"-2", b"a2"]
        assert held(kit) == {"a1": "retrying", "-1": "retrying"}

    def test_another_process_goes_on_where_one_was_killed(self, kit: StoreKit, late: bool) -> None:
        # Given a relay that held a message and ended without a word
        broker = Broker(bad={b"a1"}, late=late)
        write(kit, "a1", "a2", "b1")
        first = relay(kit, broker, LATER)
        first.run_once()
        kit.writer().execute("update outbox_cursor set lease_until = 0")
        kit.writer().execute("delete from outbox_process")
        # When another one takes the lane
        write(kit, "a3", "b2")
        with relay(kit, broker, LATER) as second:
            second.run_once()
        # Then it knows which key is stopped
        assert broker.payloads[-1] == b"b2"
        assert held(kit) == {"a1": "retrying", "a2": "blocked", "a3": "blocked"}
        first.close()

    def test_many_in_one_page_are_all_found(self, kit: StoreKit, late: bool) -> None:
        keys = "abcdefghij"
        bad = {f"{key}1".encode() for key in keys[::3]}
        broker = Broker(bad=bad, late=late)
        write(kit, *[f"{key}{n}" for n in (1, 2) for key in keys])
        with relay(kit, broker) as running:
            running.run_once()
        stopped = set(keys[::3])
        assert {p.decode() for p in broker.payloads if p} == {
            f"{key}{n}" for n in (1, 2) for key in keys if key not in stopped
        }
        assert held(kit) == {
            f"{key}{n}": "retrying" if n == 1 else "blocked" for n in (1, 2) for key in stopped
        }


@pytest.mark.parametrize("late", [False, True], ids=["known before", "told by the broker"])
class TestATopicThatIsNotThere:
    def test_other_topics_flow_and_no_attempt_is_counted(self, kit: StoreKit, late: bool) -> None:
        broker = Broker(missing={"u"}, late=late)
        write(kit, "a1", "-1", "a2", topic="u")
        write(kit, "a1", "a2")
        running = relay(kit, broker, AT_ONCE)
        with running:
            run_past_the_broker(running)
            write(kit, "b1", topic="u")
            run_past_the_broker(running)
        assert broker.payloads == [b"a1", b"a2"]
        rows = kit.writer().execute("select state, attempts, fault from outbox_held order by seq")
        assert [tuple(row) for row in rows] == [
            ("retrying", 0, "topic"),
            ("retrying", 0, "topic"),
            ("blocked", 0, None),
            ("retrying", 0, "topic"),
        ]

    def test_when_it_is_made_all_of_it_goes_in_order(
        self, kit: StoreKit, late: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("outbox.relay.holding._PROBES", AT_ONCE)
        broker = Broker(missing={"u"}, late=late)
        write(kit, "a1", "b1", "a2", "-1", topic="u")
        with relay(kit, broker) as running:
            run_past_the_broker(running)
            write(kit, "a3", topic="u")
            run_past_the_broker(running)
            assert broker.payloads == []
            broker.missing.clear()
            until_empty(kit, running)
            write(kit, "a4", topic="u")
            running.run_once()
        assert [p for p in broker.payloads if p and p[:1] == b"a"] == [b"a1", b"a2", b"a3", b"a4"]
        assert sorted(broker.payloads)[:1] == [b"-1"]
        assert len(broker.payloads) == 6


def run_past_the_broker(running: Relay) -> None:
    """Run until what the broker says late has been learned."""
    for _ in range(20):
        try:
            running.run_once()
        except BrokerUnavailable:
            continue
        return
    raise AssertionError("the relay goes on to complain")


def test_the_brokers_fault_is_held_against_nobody(kit: StoreKit) -> None:
    broker = Broker(bad={b"a1"}, away=True)
    write(kit, "a1", "b1")
    with relay(kit, broker, SOON) as running:
        for _ in range(5):
            with pytest.raises(BrokerUnavailable):
                running.run_once()
        assert held(kit) == {}
        broker.away = False
        running.run_once()
        # nor is it when something is held
        before = list(kit.writer().execute("select attempts from outbox_held"))
        broker.away = True
        wait_until(lambda: _fails(running), what="the next attempt")
        assert list(kit.writer().execute("select attempts from outbox_held")) == before


def _fails(running: Relay) -> bool:
    try:
        running.run_once()
    except BrokerUnavailable:
        return True
    return False


def test_a_key_that_an_operator_frees_goes_on(kit: StoreKit) -> None:
    # Given a dead message, and one behind it
    broker = Broker(bad={b"a1"})
    write(kit, "a1", "a2")
    with relay(kit, broker, RetryPolicy(max_attempts=1)) as running:
        running.run_once()
        assert held(kit) == {"a1": "dead", "a2": "blocked"}
        # When its row is deleted by hand
        kit.writer().execute("delete from outbox_held where state = 'dead'")
        write(kit, "a3")
        # Then what was behind it comes, in order
        until_empty(kit, running)
    assert broker.payloads == [b"a2", b"a3"]


def test_where_nothing_is_held_nobody_asks(kit: StoreKit) -> None:
    broker = Broker()
    with relay(kit, broker) as running:
        write(kit, "a1")
        running.run_once()
        store = running._store
        asked: list[str] = []
        store._open.set_trace_callback(asked.append)  # type: ignore[attr-defined]
        for number in range(5):
            write(kit, f"a{number}")
            running.run_once()
        store._open.set_trace_callback(None)  # type: ignore[attr-defined]
    assert asked
    assert [sql for sql in asked if "outbox_held" in sql] == []


def test_a_message_stops_its_key_only_when_those_before_it_have_arrived(kit: StoreKit) -> None:
    """Else a crash between the two would bring them back into a key that is stopped: after it."""
    # Given messages of a key before one that is refused, in its page and in the page before
    broker = Broker(bad={b"a5", b"b2"})
    write(kit, "a1", "b1", "a2", "a3", "c1", "a4", "b2", "a5", "a6", "c2")
    arrived: list[tuple[set[int], list[bytes | None]]] = []
    store = kit.store()
    keeper = store.held()
    hold = keeper.hold

    def noted(lease: Any, position: Any, lease_s: float, holds: Any) -> None:
        arrived.append(({each.seq for each in holds}, list(broker.payloads)))
        hold(lease, position, lease_s, holds)

    keeper.hold = noted
    store.held = lambda: keeper
    settings = RelaySettings(retry=RetryRules(LATER), page_messages=5)
    # When they are relayed
    with Relay(store, broker.publisher, settings) as running:
        running.run_once()
    # Then whenever one was held, all before it in its key were there, and nothing else is amiss
    there = {seq: set(payloads) for seqs, payloads in arrived for seq in seqs}
    assert {b"a1", b"a2", b"a3", b"a4"} <= there[8]
    assert b"b1" in there[7]
    assert held(kit) == {"b2": "retrying", "a5": "retrying", "a6": "blocked"}
    assert sorted(broker.payloads) == [b"a1", b"a2", b"a3", b"a4", b"b1", b"c1", b"c2"]


def test_its_monitor_is_told_what_is_held_tried_again_and_which_topic_is_closed(
    kit: StoreKit,
) -> None:
    # Given a topic that is missing, and a message that is refused
    monitor = RelayMonitor("default")
    broker = Broker(bad={b"a1"}, missing={"away"})
    write(kit, "a1", "a2")
    write(kit, "b1", topic="away")
    settings = RelaySettings(retry=RetryRules(SOON))
    with Relay(kit.store(), broker.publisher, settings, observer=monitor) as running:
        # When they are relayed
        wait_until(
            lambda: (running.run_once(), monitor.closed_topics == {"away"})[1],
            what="the topic to be told of",
        )
        # Then it is told what was held, and that attempts fail
        value = monitor.figures.value
        assert value(catalogue.HELD, "retrying") == 2
        assert value(catalogue.HELD, "blocked") == 1
        wait_until(
            lambda: (running.run_once(), value(catalogue.RETRIED, "failed"))[1],
            what="an attempt that failed",
        )
        # And when both are mended, that they arrived, and that no topic is closed any more
        broker.bad.clear()
        broker.missing.clear()
        until_empty(kit, running)
        wait_until(
            lambda: (running.run_once(), not monitor.closed_topics)[1],
            what="the topic to be open",
        )
        assert value(catalogue.RETRIED, "delivered") == 3
        assert (value(catalogue.SENT, "t"), value(catalogue.SENT, "away")) == (2, 1)
        assert value(catalogue.GIVEN_UP) == 0
