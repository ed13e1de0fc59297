from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from outbox.database import DatabaseUrl
from tests.servers.kafka_topics import KafkaServer
from tests.verify.world import World, world


@pytest.fixture
def postgresql_world(postgresql_url: str, kafka: KafkaServer) -> Iterator[World]:
    yield from world(DatabaseUrl.parse(postgresql_url), kafka)


@pytest.fixture
def sqlite_world(tmp_path: Path, kafka: KafkaServer) -> Iterator[World]:
    yield from world(DatabaseUrl.parse(f"sqlite:///{tmp_path}/log.db"), kafka)


@pytest.fixture(params=["postgresql", "sqlite"])
def any_world(request: pytest.FixtureRequest) -> World:
    """Give a world on each database."""
    made: World = request.getfixturevalue(f"{request.param}_world")
    return made
