"""Exactly once: what is in Kafka and where the relay goes on never differ."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka.admin import AdminClient

from outbox.database import DatabaseUrl
from outbox.errors import BrokerUnavailable, ConfigurationError, LogInconsistent
from outbox.migrations import migrate
from outbox.publishers import transaction, transactional
from outbox.publishers.base import DeliveryFailed, Fenced
from outbox.publishers.choosing import make_publisher
from outbox.publishers.memory import MemoryPublisher
from outbox.publishers.transactional import TransactionalPublisher
from outbox.record import DeliveryMode, Page, Position
from outbox.relay.relay import Pass, Relay
from outbox.relay.settings import RelaySettings
from outbox.relay.settlement import SentPage
from outbox.schema.rebase import rebase
from tests.conformance.conftest import sqlite_kit  # noqa: F401 - the fixture
from tests.conformance.publisher_kit import TIMEOUT_S, Sending, some_records
from tests.conformance.store_kit import StoreKit
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_topics import QUIET, KafkaServer
from tests.servers.postgresql import PrivatePostgreSQL
from tests.terms import begin_term, die

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

EXACTLY: DeliveryMode = "exactly-once"
AT_LEAST: DeliveryMode = "at-least-once"


@dataclass
class World:
    """A log, a topic, and relays that carry the one to the other."""

    kit: StoreKit
    kafka: KafkaServer
    topic: str
    relays: list[Relay] = field(default_factory=list)

    def relay(
        self, delivery: DeliveryMode = EXACTLY, more: dict[str, Any] | None = None, **settings: Any
    ) -> Relay:
        properties = {"bootstrap.servers": self.kafka.bootstrap_servers, **(more or {})}
        made = Relay(
            self.kit.store(),
            lambda: make_publisher(properties, delivery),
            RelaySettings(delivery=delivery, **settings),
        )
        self.relays.append(made)
        return made

    def deliver(self, delivery: DeliveryMode = EXACTLY, **settings: Any) -> Pass:
        """Let a relay of its own deliver what is there."""
        with self.relay(delivery, **settings) as relay:
            return relay.run_once()

    def write(self, *payloads: str) -> None:
        with self.kit.transaction() as connection:
            for payload in payloads:
                self.kit.write(connection, "k", payload=payload.encode(), topic=self.topic)

    def arrived(self) -> list[str]:
        return [(message.value() or b"").decode() for message in self.kafka.read(self.topic)]

    def cursor(self) -> dict[str, Any]:
        columns = ["after_seq", "delivery", *(["plan_no"] if self.kit.has_snapshots else [])]
        found = self.kit.writer().execute(f"select {', '.join(columns)} from outbox_cursor")
        return dict(zip(columns, found.fetchone(), strict=True))

    def rewind(self, cursor: dict[str, Any]) -> None:
        """Bring the cursor back, as if a relay had died between Kafka's commit and its save."""
        assignments = [f"{name} = '{value}'" for name, value in cursor.items()]
        self._change_cursor(*assignments)

    def free_the_lane(self) -> None:
        """Let others take the lane, as after the end of a lease."""
        self._change_cursor("owner = null", "lease_until = null")

    def _change_cursor(self, *assignments: str) -> None:
        native = ["written_by = pg_current_xact_id()"] if self.kit.has_snapshots else []
        changes = ", ".join([*assignments, *native])
        self.kit.writer().execute(f"update outbox_cursor set {changes}")

    @property
    def identity(self) -> str:
        found = self.kit.writer().execute("select origin from outbox_cursor")
        return f"outbox-relay.{found.fetchone()[0]}.default.default"

    def forget_offsets(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers, **QUIET})
        admin.delete_consumer_groups([self.identity])[self.identity].result(TIMEOUT_S)

    def kept(self) -> list[str]:
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers, **QUIET})
        wanted = [ConsumerGroupTopicPartitions(self.identity)]
        found = admin.list_consumer_group_offsets(wanted)[self.identity].result(TIMEOUT_S)
        return [partition.metadata for partition in found.topic_partitions]


@pytest.fixture(params=["postgresql", "sqlite"])
def world(request: pytest.FixtureRequest, kafka: KafkaServer, tmp_path: Path) -> Iterator[World]:
    url = (
        f"sqlite:///{tmp_path}/log.db"
        if request.param == "sqlite"
        else request.getfixturevalue("postgresql_url")
    )
    kit = StoreKit(DatabaseUrl.parse(url))
    yield World(kit, kafka, kafka.create_topic(partitions=2))
    kit.close()


class TestGoingOn:
    def test_what_kafka_has_is_not_sent_again_when_the_database_does_not_know(
        self, world: World
    ) -> None:
        # Given a relay that died after Kafka's commit and before it saved the position
        before = world.cursor()
        world.write("1", "2", "3")
        world.deliver(page_messages=2)
        world.rewind({**before, "delivery": EXACTLY})

        # When another one goes on
        world.write("4")
        with world.relay() as relay:
            assert relay.run_once() == Pass(read=1, delivered=1)

        # Then nothing is there twice
        assert world.arrived() == ["1", "2", "3", "4"]

    def test_a_position_within_a_batch_is_found_as_well(self, world: World) -> None:
        # Given a relay that died in the middle of a batch, after a transaction
        world.write(*map(str, range(10)))
        never = {"save_interval_s": 3600.0, "idle_save_interval_s": 3600.0}
        with world.relay(page_messages=4, in_flight_messages=2, **never) as relay:
            term = begin_term(relay)
            while not term.step(0.05).delivered:
                pass
            die(relay)
            term._publisher.close()
        sent = len(world.arrived())
        assert 0 < sent < 10
        world.free_the_lane()

        # When another one goes on, then with the rest
        assert world.deliver().delivered == 10 - sent
        assert world.arrived() == list(map(str, range(10)))

    def test_each_topic_of_a_transaction_keeps_the_position(self, world: World) -> None:
        """So the position lives as long as any of the messages that it tells of."""
        # Given a transaction with messages of two topics
        before, first = world.cursor(), world.topic
        second = world.topic = world.kafka.create_topic(partitions=1)
        with world.kit.transaction() as connection:
            for topic in (first, second):
                world.kit.write(connection, "k", topic=topic)
        world.deliver()
        # When one of the topics is deleted, and the database does not know of the transaction
        admin = AdminClient({"bootstrap.servers": world.kafka.bootstrap_servers, **QUIET})
        admin.delete_topics([first])[first].result(TIMEOUT_S)
        world.rewind({**before, "delivery": EXACTLY})
        # Then a relay still knows
        assert world.deliver() == Pass()
        assert len(world.arrived()) == 1

    def test_without_kafkas_position_the_databases_own_is_taken(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        # Given a group that Kafka has forgotten, as it does with idle ones
        world.write("1", "2")
        world.deliver()
        assert len(world.kept()) == 1
        world.forget_offsets()
        # When a relay goes on
        world.write("3")
        with caplog.at_level(logging.INFO):
            world.deliver()
        # Then it says so, repeats nothing that was saved, and begins nothing anew
        assert "Kafka keeps no position of relay default" in caplog.text
        assert world.arrived() == ["1", "2", "3"]

    def test_a_position_of_the_log_before_a_fail_over_is_not_taken(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        """There its numbers and transaction ids are given out a second time."""
        # Given a log that was delivered, and then lost its end with a fail-over: it gets a new id
        before = world.cursor()
        world.write("1", "2")
        world.deliver()
        world.rewind({**before, "delivery": EXACTLY})
        new_id = "'7a8f9a0e-3f1c-4b59-9f6e-0d5a2b9c1e11'"
        world.kit.writer().execute(f"update outbox_meta set log_id = {new_id}")
        # When a relay goes on
        world.deliver()
        # Then it goes by the database, which costs repeats and loses nothing, and says so
        assert world.arrived() == ["1", "2", "1", "2"]
        assert "in the log as it was before a fail-over" in caplog.text

    def test_a_relay_that_was_forgotten_and_made_again_begins_anew(self, world: World) -> None:
        world.write("1", "2")
        world.deliver()
        store = world.kit.store()
        store.forget_relay("default")
        store.create_relay("default", "earliest")
        assert world.deliver().delivered == 2
        assert world.arrived() == ["1", "2", "1", "2"]


class TestSwitching:
    @pytest.mark.parametrize(
        ("first", "second"), [(EXACTLY, AT_LEAST), (AT_LEAST, EXACTLY)], ids=["from", "to"]
    )
    def test_nothing_is_lost_or_repeated(
        self, world: World, first: DeliveryMode, second: DeliveryMode
    ) -> None:
        for mode, number in ((first, 1), (second, 2), (first, 3), (second, 4)):
            world.write(str(number))
            assert world.deliver(mode).delivered == 1
            assert world.cursor()["delivery"] == mode
        assert world.arrived() == ["1", "2", "3", "4"]

    def test_at_least_once_goes_on_where_a_killed_exactly_once_relay_was(
        self, world: World
    ) -> None:
        # Given an exactly-once relay that died between Kafka's commit and its save
        before = world.cursor()
        world.write("1", "2")
        world.deliver()
        world.rewind({**before, "delivery": EXACTLY})
        # When the next one publishes at least once
        world.write("3")
        assert world.deliver(AT_LEAST).delivered == 1
        # Then nothing is repeated; and from now on Kafka is not asked
        assert world.arrived() == ["1", "2", "3"]
        world.rewind(before)
        assert world.deliver(AT_LEAST).delivered == 3

    def test_at_least_once_shuts_an_exactly_once_relay_out(self, world: World) -> None:
        # Given an exactly-once relay in the middle of a transaction
        world.write("1")
        zombie = world.relay()
        term = begin_term(zombie)
        term.step(0)
        # When another process takes over, at least once
        world.free_the_lane()
        world.deliver(AT_LEAST)
        # Then the first one's transaction comes to nothing
        with pytest.raises(Fenced):
            term._publisher.flush(TIMEOUT_S)
        assert world.arrived() == ["1"]
        zombie._term = None
        term._publisher.close()

    def test_a_publisher_without_transactions_is_refused(self, world: World) -> None:
        relay = Relay(world.kit.store(), MemoryPublisher, RelaySettings(delivery=EXACTLY))
        with relay, pytest.raises(ConfigurationError, match="MemoryPublisher does not publish in"):
            relay.run_once()

    def test_there_is_no_third_way_of_delivery(self) -> None:
        with pytest.raises(ConfigurationError, match="use at-least-once or exactly-once"):
            RelaySettings(delivery="twice")  # type: ignore[arg-type] # that is the point


class TestBackInTime:
    def test_a_database_that_went_back_in_time_stops_the_relay_until_it_is_rebased(
        self, private_postgresql: PrivatePostgreSQL, kafka: KafkaServer, tmp_path: Path
    ) -> None:
        # Given a database that is put back to how it was before its messages were sent; nothing in
        # the files tells
        server = private_postgresql
        url = DatabaseUrl.parse(server.create_database())
        migrate(url)
        world = World(StoreKit(url), kafka, kafka.create_topic(partitions=1))
        world.write("1")
        world.deliver()
        world.kit.close()
        server.stop()
        shutil.copytree(server.data_directory, tmp_path / "backup")
        server.start()
        world.kit = StoreKit(url)
        world.write("2", "3")
        world.deliver()
        world.kit.close()
        server.stop()
        _restore(tmp_path / "backup", server.data_directory)
        server.start()

        # When other messages are written, and a relay begins
        world.kit = StoreKit(url)
        world.write("other 2", "other 3", "other 4")
        with pytest.raises(LogInconsistent, match=r"it went back in time.*migrate --rebase"):
            world.deliver()

        # Then all of them are delivered after a rebase; what was in doubt may come twice
        rebase(url)
        world.deliver()
        assert world.arrived()[3:] == ["other 2", "other 3", "other 4"]
        world.kit.close()

    def test_a_file_that_was_replaced_by_an_earlier_copy_stops_the_relay(
        self, kafka: KafkaServer, tmp_path: Path
    ) -> None:
        # Given a file that is put back
        file, copy = tmp_path / "log.db", tmp_path / "copy.db"
        url = DatabaseUrl.parse(f"sqlite:///{file}")
        world = World(StoreKit(url), kafka, kafka.create_topic(partitions=1))
        world.write("1")
        world.deliver()
        world.kit.writer().execute(f"vacuum into '{copy}'")
        world.write("2", "3")
        world.deliver()
        world.kit.close()
        for gone in tmp_path.glob("log.db*"):
            gone.unlink()
        copy.rename(file)
        # When other messages get the numbers of those that Kafka has, and a relay begins
        world.kit = StoreKit(url)
        world.write("other 2", "other 3", "other 4")
        with pytest.raises(LogInconsistent, match="which is another message"):
            world.deliver()
        # Then what it says helps, and loses nothing
        store = world.kit.store()
        store.forget_relay("default")
        store.create_relay("default", "earliest")
        world.deliver()
        assert world.arrived()[3:] == ["1", "other 2", "other 3", "other 4"]
        world.kit.close()


def _restore(backup: Path, data: Path) -> None:
    owner = data.stat()
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    for path in (data, *data.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)


class TestOneProducer:
    @pytest.fixture
    def make(self, kafka: KafkaServer) -> Iterator[Callable[..., TransactionalPublisher]]:
        made: list[TransactionalPublisher] = []

        def connected(identity: str, **more: Any) -> TransactionalPublisher:
            properties = {"bootstrap.servers": kafka.bootstrap_servers, **more}
            made.append(TransactionalPublisher(properties))
            made[-1].connect(TIMEOUT_S)
            made[-1].marks = made[-1].claim(identity, TIMEOUT_S)  # type: ignore[attr-defined]
            return made[-1]

        yield connected
        for publisher in made:
            publisher.close()

    def test_a_successor_fences_the_one_before_and_finds_its_marks(
        self, kafka: KafkaServer, make: Callable[..., Any]
    ) -> None:
        # Given a publisher with a transaction that was committed, and one that was not
        topic = kafka.create_topic(partitions=1)
        one, another = (f"relay-{secrets.token_hex(4)}" for _ in range(2))
        old = Sending(make(one))
        old.deliver(some_records(topic, 3))
        old.publish(some_records(topic, 5))
        # When another one takes its identity, and a third one another
        new, other = make(one), make(another)
        # Then it knows how far the first one came, and that one can add nothing
        assert new.marks == ["mark of 3"]
        assert other.marks == []
        with pytest.raises(Fenced, match=f"another one publishes as '{one}' now"):
            old.publisher.flush(TIMEOUT_S)
        assert len(old.tally.acknowledgements) == 3
        assert len(kafka.read(topic)) == 3

    def test_a_page_without_a_mark_leaves_the_one_that_is_kept(
        self, kafka: KafkaServer, make: Callable[..., Any]
    ) -> None:
        """Such as messages that were held, and are sent before a term has read anything."""
        topic, identity = kafka.create_topic(partitions=1), f"relay-{secrets.token_hex(4)}"
        sending = Sending(make(identity))
        sending.deliver(some_records(topic, 3))
        unmarked = SentPage(Page(7, some_records(topic, 2), Position(7, 2)))
        sending.publisher.publish(list(unmarked.page.records), "", unmarked, lambda: None)
        sending.publisher.flush(TIMEOUT_S)
        assert unmarked.remaining == 0
        assert make(identity).marks == ["mark of 3"]

    def test_a_page_that_is_published_while_a_transaction_ends_is_in_the_next_one(
        self, kafka: KafkaServer, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        topic = kafka.create_topic(partitions=1)
        sending = Sending(make(f"relay-{secrets.token_hex(4)}"))
        # Given a transaction that ends as soon as it can
        monkeypatch.setattr(transaction, "_MESSAGES", 1)
        sending.publish(some_records(topic, 2))
        sending.publisher.poll(0)
        assert sending.publisher._ending is not None
        # When more is published meanwhile
        sending.publish(some_records(topic, 3))
        assert sending.publisher._open is None
        # Then all arrives, in order
        sending.publisher.flush(TIMEOUT_S)
        assert sending.tally.acknowledgements == [0, 1, 2, 3, 4]
        assert len(kafka.read(topic)) == 5

    def test_a_message_that_kafka_does_not_take_is_found_and_those_before_it_are_delivered(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a message that only the broker can refuse, since messages are compressed
        monkeypatch.setattr(transactional, "_batch_sizes", {})
        world.topic = world.kafka.create_topic(partitions=1, max_message_bytes="10000")
        world.write(*map(str, range(20)))
        with world.kit.transaction() as connection:
            world.kit.write(connection, "k", payload=os.urandom(20_000), topic=world.topic)
        world.write("after it")
        relay = world.relay(more={"compression.type": "gzip"})
        # When a relay tries again and again
        with relay:
            run_until_well(relay)
        # Then it finds the message and holds it with what is behind it, and has delivered what is
        # before it, once
        assert world.arrived() == list(map(str, range(20)))
        held = world.kit.writer().execute("select state from outbox_held order by seq").fetchall()
        assert [state for (state,) in held] == ["retrying", "blocked"]


class TestABrokerThatDoesNotAnswer:
    def test_a_commit_without_an_answer_is_decided_by_the_next_term(
        self,
        private_kafka: KafkaCluster,
        sqlite_kit: StoreKit,  # noqa: F811
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # Given a broker that is frozen while a transaction ends
        monkeypatch.setattr(transactional, "TIMEOUT_S", 1.0)
        monkeypatch.setitem(transactional._IN_TRANSACTIONS, "transaction.timeout.ms", 2000)
        world = World(sqlite_kit, private_kafka, private_kafka.create_topic(partitions=1))
        world.write("1", "2", "3")
        relay = world.relay(more={"socket.timeout.ms": 1000})
        relay.run_once()
        world.write("4")
        private_kafka.pause()
        with pytest.raises(DeliveryFailed, match="a transaction failed"):
            relay.run_once()
        assert world.cursor()["after_seq"] == 3
        # When it answers again
        private_kafka.resume()
        run_until_well(relay)
        relay.close()
        # Then the messages are there once, whatever became of that transaction
        assert world.arrived() == ["1", "2", "3", "4"]


def run_until_well(relay: Relay) -> None:
    """Run a relay until the broker has taken everything."""
    for _ in range(30):
        with suppress(BrokerUnavailable):
            relay.run_once()
            return
    raise AssertionError("the broker takes nothing")
