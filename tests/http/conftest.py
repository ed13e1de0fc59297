"""A log and a topic, and relays whose endpoints can be asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import relay_process
from tests.acceptance.relay_process import Scene
from tests.servers.availability import require
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


@pytest.fixture
def fragile(
    package_postgresql: PrivatePostgreSQL, kafka: KafkaServer, tmp_path: Path
) -> Iterator[Scene]:
    """Give a log on a PostgreSQL to break; it is mended afterwards."""
    url = package_postgresql.create_database()
    with relay_process.scene(url, kafka, tmp_path, kafka.create_topic()) as made:
        yield made
    if not package_postgresql.running:
        package_postgresql.start()
