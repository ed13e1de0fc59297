"""Nothing that the relay or a writer needs is lost when statements go to different servers."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.orm import Session

from outbox import Outbox
from tests.servers.availability import require
from tests.servers.pgbouncer import PgBouncer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.relay_process import Scene


@pytest.fixture
def pooler(scene: Scene) -> Iterator[PgBouncer]:
    """Give a pooler in front of the scene's database; relays are told its address."""
    with require(lambda: PgBouncer(scene.url)) as pooler:
        scene.commands.variables["OUTBOX_DATABASE_URL"] = pooler.url
        yield pooler


def shuffle(url: str, stop: threading.Event) -> None:
    """Keep the pool's servers busy in turn, so that nobody gets the same one again and again."""
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        while not stop.is_set():
            connection.execute("select pg_sleep(random() * 0.002)")


def test_a_relay_works_through_a_pooler_in_transaction_mode(
    scene: Scene, pooler: PgBouncer
) -> None:
    # Given a relay whose statements go to whatever server process is free
    stop = threading.Event()
    others = [threading.Thread(target=shuffle, args=(pooler.url, stop)) for _ in range(4)]
    for thread in others:
        thread.start()
    try:
        holder = scene.holder("--lease", "2")
        standby = scene.relay("--lease", "2")
        # When messages are written, and the relay is killed and replaced midway
        with scene.flow():
            scene.write(each=2_000)
            holder.signal(signal.SIGKILL)
            standby.says("holds the lane")
            scene.write(each=2_000)
        scene.wait_until_delivered()
    finally:
        stop.set()
        for thread in others:
            thread.join()
    # Then nothing is lost or out of order
    assert scene.verdict().faults == 0


def test_messages_are_written_through_a_pooler_in_transaction_mode(
    scene: Scene, pooler: PgBouncer
) -> None:
    # Given an engine without statements that the driver prepares, as such a pooler needs
    engine = create_engine(
        pooler.url.replace("postgresql://", "postgresql+psycopg://"),
        poolclass=NullPool,
        connect_args={"prepare_threshold": None},
    )
    events = Outbox()
    # When transactions commit and roll back
    for number in range(20):
        with Session(engine) as session:
            events.add(session, scene.topic, b"1", key=f"pooled-{number}", ordering="strict")
            session.rollback() if number % 4 == 0 else session.commit()
    # Then the committed ones arrive
    assert scene.commands("run", "--drain").code == 0
    expected = {f"pooled-{number}" for number in range(20) if number % 4}
    assert sorted(each.key for each in scene.topic_now()) == sorted(expected)
