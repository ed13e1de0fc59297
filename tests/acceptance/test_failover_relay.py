"""A primary dies while writers write and the relay publishes, and its standby takes over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.acceptance import relay_process
from tests.acceptance.failing_over import WRITERS, Books, Outcome, Sent, examine, writing
from tests.acceptance.relay_process import KEYS
from tests.servers.replication import Standby
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.acceptance.relay_process import Scene
    from tests.servers.kafka_topics import KafkaServer
    from tests.servers.postgresql import PrivatePostgreSQL

#: The relay is at work again so many seconds after the promotion. Seen: 1 to 4 s.
RECOVERY_S = 30.0


@dataclass
class Pair:
    """A primary and its standby, and a scene whose clients look for the one that can be written."""

    primary: PrivatePostgreSQL
    standby: Standby
    scene: Scene

    def settings(self, statement: bytes) -> None:
        with psycopg.connect(self.primary.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)
            connection.execute("select pg_reload_conf()")

    def all_wait_for_the_standby(self) -> None:
        """Wait until every writer waits: for the standby, or for a row that such a one has."""
        with psycopg.connect(self.primary.url("postgres"), autocommit=True) as connection:
            waiting = """select count(*) >= %s and bool_or(wait_event = 'SyncRep')
                           from pg_stat_activity
                          where query ~ 'counter|^COMMIT' and state = 'active'
                            and wait_event_type in ('IPC', 'Lock')"""
            wait_until(
                lambda: connection.execute(waiting, [WRITERS]).fetchone() == (True,),
                what="every writer to wait for the standby",
            )

    def log(self) -> list[Sent]:
        """Return what the log holds, in its order."""
        rows = self.scene.query("select key, payload from outbox_message order by seq")
        return [Sent.parse(key, bytes(payload)) for key, payload in rows]

    def topic(self) -> list[Sent]:
        """Return what the topic holds, each partition in its order."""
        return [
            Sent.parse((message.key() or b"").decode(), message.value() or b"")
            for message in self.scene.kafka.read(self.scene.topic)
        ]

    def log_ids(self) -> list[str]:
        """Return the logs that positions in the topic name, in the order of their appearance."""
        headers = [dict(message.headers()) for message in self.scene.kafka.read(self.scene.topic)]
        return list(dict.fromkeys(each["outbox-position"].decode()[:36] for each in headers))


@pytest.fixture
def pair(
    private_postgresql: PrivatePostgreSQL, kafka: KafkaServer, tmp_path: Path
) -> Iterator[Pair]:
    with Standby(private_postgresql) as standby:
        database = private_postgresql.create_database().rpartition("/")[2]
        hosts = f"127.0.0.1:{private_postgresql.port},127.0.0.1:{standby.port}"
        url = f"postgresql://postgres@{hosts}/{database}?target_session_attrs=read-write"
        topic = kafka.create_topic(partitions=1)  # so that what was sent first is seen first
        with relay_process.scene(url, kafka, tmp_path, topic) as scene:
            yield Pair(private_postgresql, standby, scene)


def more_confirmed(books: Books, count: int = 200) -> None:
    wanted = len(books.confirmed) + count
    wait_until(lambda: len(books.confirmed) >= wanted, what=f"{count} more commits", timeout=60)


def goes_on(pair: Pair, books: Books) -> None:
    """Wait until writers and relay are at work on the promoted server."""
    more_confirmed(books)
    pair.scene.wait_until_delivered(RECOVERY_S)


def test_a_failover_to_a_synchronous_standby_loses_and_reorders_nothing(
    pair: Pair,
) -> None:
    # Given a primary that waits for its standby with every commit, writers and a relay
    pair.settings(b"alter system set synchronous_standby_names = 'standby'")
    relay = pair.scene.holder()
    keys = [f"k{number}" for number in range(1, KEYS + 1)]
    with writing(pair.scene.url, pair.scene.topic, keys) as books:
        more_confirmed(books)
        # And a standby that is away for a while, so that all of them wait for it
        pair.standby.stop()
        pair.all_wait_for_the_standby()
        # When the primary dies without a word, and the standby takes its place
        pair.primary.kill()
        before = books.confirmed | books.unsure
        pair.standby.start()
        pair.standby.promote()
        # Then both go on by themselves
        goes_on(pair, books)
    pair.scene.wait_until_delivered()
    outcome = examine(pair.topic(), pair.log(), books, before)
    # And every confirmed message is there, and none that was not committed, in order
    assert outcome == Outcome(
        *(0, 0, 0, 0, 0), published_and_lost=0, repeats=outcome.repeats, new_repeats=0
    )
    assert relay.process.poll() is None, relay.lines


def test_a_failover_to_an_asynchronous_standby_loses_what_it_had_not_received_and_nothing_else(
    pair: Pair,
) -> None:
    # Given writers, a relay, and a standby that does not receive what is written now
    relay = pair.scene.holder()
    keys = [f"k{number}" for number in range(1, KEYS + 1)]
    with writing(pair.scene.url, pair.scene.topic, keys) as books:
        more_confirmed(books)
        pair.standby.wait_until_caught_up()
        pair.standby.stop()
        more_confirmed(books)
        pair.scene.wait_until_delivered()
        # When the primary dies without a word, and the standby takes its place
        pair.primary.kill()
        before = books.confirmed | books.unsure
        pair.standby.start()
        pair.standby.promote()
        # Then both go on by themselves
        goes_on(pair, books)
    pair.scene.wait_until_delivered()
    log = pair.log()
    outcome = examine(pair.topic(), log, books, before)
    # And what is lost is what was confirmed and had not been received
    assert outcome.lost >= 200
    assert outcome.lost == len(before & books.confirmed - {sent.token for sent in log})
    # And of that Kafka holds messages, of transactions that are no more
    assert outcome.published_and_lost >= 200
    # And what was published while the standby was away may be published again, and nothing else is
    assert outcome == Outcome(
        lost=outcome.lost,
        missing=0,
        phantoms=0,
        disordered=0,
        late=0,
        published_and_lost=outcome.published_and_lost,
        repeats=outcome.repeats,
        new_repeats=0,
    )
    # And no position of the one history can be taken for one of the other
    assert len(pair.log_ids()) == 2
    assert relay.process.poll() is None, relay.lines


A1, A2, B1 = Sent("a", 1, "a1"), Sent("a", 2, "a2"), Sent("b", 1, "b1")
NEW_A2 = Sent("a", 2, "new a2")


@pytest.mark.parametrize(
    ("topic", "log", "found"),
    [
        ([A1], [A1, A2], "missing"),
        ([A2, A1], [A1, A2], "disordered"),
        ([A1, A2], [A1], "published_and_lost"),
        ([A1, A2], [A1], "lost"),
        ([A1, A1], [A1], "repeats"),
        ([A1, NEW_A2, A2], [A1, NEW_A2], "late"),
        ([A1, NEW_A2, NEW_A2], [A1, NEW_A2], "new_repeats"),
        ([Sent("a", 1, "rolled back")], [], "phantoms"),
        ([Sent("a", 1, "never heard of")], [], "phantoms"),
    ],
)
def test_the_examination_finds(topic: list[Sent], log: list[Sent], found: str) -> None:
    books = Books(confirmed={"a1", "a2", "new a2"}, rolled_back={"rolled back"})
    assert getattr(examine(topic, log, books, before={"a1", "a2"}), found) > 0


def test_the_examination_finds_nothing_where_all_is_well() -> None:
    books = Books(confirmed={"a1", "new a2"}, rolled_back={"rolled back"})
    outcome = examine([A1, B1, NEW_A2], [A1, B1, NEW_A2], books, before={"a1"})
    assert outcome == Outcome(*[0] * 8)
