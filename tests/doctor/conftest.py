"""One PostgreSQL and one Kafka to plant faults in, for all tests of the doctor."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.doctor.installation import Installation
from tests.servers.availability import require
from tests.servers.kafka import KafkaCluster
from tests.servers.postgresql import PrivatePostgreSQL

#: The second listener wants a login; that of broker 1 is advertised where nobody listens.
LOGIN = {"sasl.mechanism": "PLAIN", "sasl.username": "relay", "sasl.password": "right"}
KAFKA = {
    # Asking for a topic must not make it.
    "auto.create.topics.enable": "true",
    "allow.everyone.if.no.acl.found": "true",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "listener.name.proxied.plain.sasl.jaas.config": (
        'org.apache.kafka.common.security.plain.PlainLoginModule required user_relay="right";'
    ),
    "listener.name.proxied.sasl.enabled.mechanisms": "PLAIN",
    "listener.security.protocol.map": (
        "CLIENTS:PLAINTEXT,PROXIED:SASL_PLAINTEXT,CONTROLLERS:PLAINTEXT"
    ),
    "offsets.topic.num.partitions": "1",
}


@pytest.fixture(scope="package")
def sick_postgresql() -> Iterator[PrivatePostgreSQL]:
    with require(lambda: PrivatePostgreSQL(settings={"wal_level": "logical"})) as server:
        yield server


@pytest.fixture(scope="package")
def sick_kafka() -> Iterator[KafkaCluster]:
    cluster = require(lambda: KafkaCluster(3, proxied=(1,), settings=KAFKA))
    with cluster, socket.socket() as taken:
        # Bound and not listening: nobody else can come to serve it.
        taken.bind(("127.0.0.1", cluster.broker(1).advertised_port or 0))
        yield cluster


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no setting of the machine be found."""
    for name in list(os.environ):
        if name.startswith(("OUTBOX_", "PG", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def empty(
    sick_postgresql: PrivatePostgreSQL, capsys: pytest.CaptureFixture[str]
) -> Iterator[Installation]:
    """Give an empty database, dropped afterwards."""
    url = sick_postgresql.create_database()
    with closing(Installation(url, capsys)) as installation:
        yield installation
    sick_postgresql.drop_database(urlsplit(url).path[1:])


@pytest.fixture
def installation(empty: Installation) -> Installation:
    """Give the tables on PostgreSQL, without a broker."""
    assert empty.relay("migrate") == 0
    return empty


@pytest.fixture
def on_sqlite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Installation]:
    """Give the tables in a SQLite file."""
    with closing(Installation(f"sqlite:///{tmp_path}/log.db", capsys)) as installation:
        assert installation.relay("migrate") == 0
        yield installation


@pytest.fixture
def with_kafka(on_sqlite: Installation, sick_kafka: KafkaCluster) -> Installation:
    """Give the tables in a SQLite file, which is quickly made, and three brokers."""
    on_sqlite.bootstrap = sick_kafka.bootstrap_servers
    return on_sqlite


@pytest.fixture
def whole(installation: Installation, sick_kafka: KafkaCluster) -> Installation:
    """Give the tables on PostgreSQL, and three brokers."""
    installation.bootstrap = sick_kafka.bootstrap_servers
    return installation
