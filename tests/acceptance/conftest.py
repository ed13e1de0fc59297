"""Logs and brokers for relay processes; some may be broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import relay_process
from tests.acceptance.relay_process import Scene
from tests.servers.availability import require
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_topics import KafkaServer
from tests.servers.postgresql import PrivatePostgreSQL


@pytest.fixture
def scene(postgresql_url: str, kafka: KafkaServer, tmp_path: Path) -> Iterator[Scene]:
    """Give a log and a topic on the servers that the tests share."""
    with relay_process.scene(postgresql_url, kafka, tmp_path, kafka.create_topic()) as made:
        yield made


@pytest.fixture(scope="package")
def package_postgresql() -> Iterator[PrivatePostgreSQL]:
    with require(PrivatePostgreSQL) as server:
        yield server


@pytest.fixture(scope="package")
def package_kafka() -> Iterator[KafkaCluster]:
    with require(lambda: KafkaCluster(proxied=[1])) as cluster:
        yield cluster


@pytest.fixture
def database(package_postgresql: PrivatePostgreSQL) -> Iterator[PrivatePostgreSQL]:
    """Give a PostgreSQL to break; it is mended afterwards."""
    yield package_postgresql
    if not package_postgresql.running:
        package_postgresql.start()


@pytest.fixture
def broker(package_kafka: KafkaCluster) -> Iterator[KafkaCluster]:
    """Give a Kafka broker to break; it is mended afterwards."""
    yield package_kafka
    package_kafka.resume()
    package_kafka.start()


@pytest.fixture
def fragile(database: PrivatePostgreSQL, broker: KafkaCluster, tmp_path: Path) -> Iterator[Scene]:
    """Give a log and a topic on servers to break."""
    topic = broker.create_topic(partitions=2)
    with relay_process.scene(database.create_database(), broker, tmp_path, topic) as made:
        yield made
