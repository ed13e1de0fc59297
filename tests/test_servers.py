"""The servers that other tests rely on do what their fixtures say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from confluent_kafka import Producer

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.servers.kafka import KafkaCluster
    from tests.servers.kafka_topics import KafkaServer
    from tests.servers.postgresql import PostgreSQLServer, PrivatePostgreSQL


def test_a_database_is_fresh_and_empty(postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as connection:
        tables = connection.execute("select from pg_tables where schemaname = 'public'")
        assert tables.rowcount == 0


def test_the_conformance_servers_put_commits_on_disk(each_postgresql_url: str) -> None:
    with psycopg.connect(each_postgresql_url) as connection:
        assert connection.execute("show fsync").fetchone() == ("on",)


def test_a_database_goes_with_its_sessions_and_prepared_transactions(
    postgresql_server: PostgreSQLServer,
) -> None:
    # Given a database with an open session and a prepared transaction
    url = postgresql_server.create_database("to_be_dropped")
    with psycopg.connect(url) as session:
        session.tpc_begin(session.xid(1, "left", "behind"))
        session.execute("create table held ()")
        session.tpc_prepare()
        # When it is dropped
        postgresql_server.drop_database("to_be_dropped")
        # Then it is gone, and so is the session
        with pytest.raises(psycopg.OperationalError):
            session.execute("select 1")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


@pytest.mark.parametrize("private_postgresql", ["18"], indirect=True)
def test_a_private_postgresql_keeps_port_and_data(private_postgresql: PrivatePostgreSQL) -> None:
    # Given a committed row
    url = private_postgresql.create_database("kept")
    with psycopg.connect(url) as connection:
        connection.execute("create table kept as select 1 as number")
    # When the server is killed, started, and restarted
    private_postgresql.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    private_postgresql.start()
    private_postgresql.restart()
    # Then the row is there, under the same URL
    with psycopg.connect(url) as connection:
        assert connection.execute("select number from kept").fetchone() == (1,)
        assert connection.info.parameter_status("server_version") == private_postgresql.version
    assert private_postgresql.program("pgbench").exists()


def test_a_topic_reads_the_same_through_both_clients(kafka: KafkaServer) -> None:
    # Given messages with and without key, value and headers
    topic = kafka.create_topic(partitions=3)
    send(kafka, topic, [("a", "1", [("h", "x:ä")]), (None, "2", None), ("c", None, [("h", None)])])
    # When both clients read the topic
    ours = kafka.read(topic)
    theirs = kafka.foreign_read(topic)
    # Then they agree on all of it
    assert len(ours) == 3
    assert [(m.partition, m.offset, m.key, m.value) for m in theirs] == [
        (m.partition(), m.offset(), m.key() and m.key().decode(), m.value()) for m in ours
    ]
    assert {m.headers for m in theirs} == {(), (("h", None),), (("h", "x:ä"),)}


def test_only_committed_messages_are_read(kafka: KafkaServer) -> None:
    # Given an aborted and a committed transaction
    topic = kafka.create_topic(partitions=1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(30)
    for value, end in (("no", producer.abort_transaction), ("yes", producer.commit_transaction)):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(30)
        end(30)
    # When the topic is read, then each isolation level shows its own
    assert [m.value() for m in kafka.read(topic)] == [b"yes"]
    everything = kafka.read(topic, isolation_level="read_uncommitted")
    assert [m.value() for m in everything] == [b"no", b"yes"]


def test_an_empty_topic_reads_as_nothing(kafka: KafkaServer) -> None:
    assert kafka.read(kafka.create_topic()) == []


def test_a_private_kafka_keeps_port_and_data(private_kafka: KafkaCluster) -> None:
    # Given a message
    topic = private_kafka.create_topic(partitions=1)
    send(private_kafka, topic, [(None, "kept", None)])
    # When the broker is killed, started, and restarted
    private_kafka.kill()
    private_kafka.start()
    private_kafka.restart()
    # Then the message is there, at the same address
    assert [m.value() for m in private_kafka.read(topic)] == [b"kept"]


def test_a_paused_broker_leaves_the_in_sync_replicas(
    new_kafka: Callable[..., KafkaCluster],
) -> None:
    # Given two brokers, the first of them reached through a proxy by some
    cluster = new_kafka(brokers=2, proxied={1})
    first, second = cluster.brokers
    assert first.advertised_port != first.proxied_port
    assert second.advertised_port == second.proxied_port
    topic = cluster.create_topic(replica_assignment=[[1, 2]], min_insync_replicas="2")
    wait_until(lambda: in_sync(cluster, topic) == {1, 2}, what="two replicas in sync")
    # When the second is paused, then the first goes on alone
    second.pause()
    wait_until(lambda: in_sync(cluster, topic) == {1}, what="one replica in sync")
    # When it goes on, then it comes back
    second.resume()
    wait_until(lambda: in_sync(cluster, topic) == {1, 2}, what="two replicas in sync again")


def test_a_wait_says_what_it_waited_for() -> None:
    with pytest.raises(AssertionError, match=r"^waited 0\.01 s for the end of days$"):
        wait_until(lambda: False, what="the end of days", timeout=0.01)


def in_sync(cluster: KafkaCluster, topic: str) -> set[int]:
    return set(cluster.describe(topic)[0].isrs)


def send(
    server: KafkaServer,
    topic: str,
    messages: list[tuple[str | None, str | None, list[tuple[str, str | None]] | None]],
) -> None:
    producer = Producer({"bootstrap.servers": server.bootstrap_servers})
    for key, value, headers in messages:
        producer.produce(topic, value, key=key, headers=headers)
    assert producer.flush(30) == 0
