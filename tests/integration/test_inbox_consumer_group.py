"""Consumers that come, go, are expelled and killed: nothing is lost and nothing doubled."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from sqlalchemy import Connection, text

from outbox.inbox import Outcome, ReceivedMessage
from tests.integration.inbox_world import PARTITIONS, World, affect, ids, make_world, take
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]
world = pytest.fixture(make_world)


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_consumer_killed_around_its_commit_leaves_one_effect(world: World, moment: str) -> None:
    # Given a consumer that is killed with the third message, before or after the commit
    world.send(ids(6), partition=0)
    url = world.engine.url.render_as_string(hide_password=False)
    arguments = [world.consumer, url, world.kafka.bootstrap_servers, world.topic, moment]
    program = Path(__file__).with_name("killed_consumer.py")
    killed = subprocess.run(
        [sys.executable, str(program), *arguments], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
    )
    assert killed.returncode == -9
    done = 3 if moment == "after the commit" else 2
    assert world.effects() == ids(done)
    assert world.offsets[0] <= done

    # When another one takes over
    with world.consume() as consumer:
        outcomes = [take(consumer) for _ in range(6 - max(world.offsets[0], 0))]

    # Then it recognised what it met again, and every effect is there once
    assert outcomes.count(Outcome.HANDLED) == 6 - done
    assert Outcome.FAILED not in outcomes
    assert world.effects() == ids(6)


class Member(threading.Thread):
    """A consumer of the world's group in a thread of its own, with the ids that it handled."""

    def __init__(
        self, world: World, handler: Callable[[Connection, ReceivedMessage], None], **changes: Any
    ) -> None:
        super().__init__(daemon=True)
        self.handled: list[str] = []
        self._world, self._handler, self._changes = world, handler, changes
        self._stop_it = threading.Event()
        self.start()

    def run(self) -> None:
        with self._world.consume(**self._changes) as consumer:
            consumer.run(self._handle, stop=self._stop_it)

    def _handle(self, transaction: Connection, message: ReceivedMessage) -> None:
        self._handler(transaction, message)
        self.handled.append(message.id)

    def leave(self) -> None:
        self._stop_it.set()
        self.join(30)
        assert not self.is_alive()


@contextmanager
def sending(world: World) -> Iterator[list[str]]:
    """Send some 500 messages a second for as long as the block lasts; give what was sent."""
    sent: list[str] = []
    done = threading.Event()

    def send() -> None:
        producer = Producer({"bootstrap.servers": world.kafka.bootstrap_servers})
        while not done.wait(0.002):
            sent.append(f"m-{len(sent)}")
            headers = [("id", sent[-1].encode())]
            producer.produce(world.topic, b"", partition=len(sent) % PARTITIONS, headers=headers)
        assert producer.flush(30) == 0

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield sent
    finally:
        done.set()
        sender.join()


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_members_that_come_and_go_lose_and_double_nothing(world: World, strategy: str) -> None:
    kafka = world.properties(**{"partition.assignment.strategy": strategy})
    with sending(world) as sent:
        # Given one consumer at work
        first = Member(world, affect, kafka=kafka)
        wait_until(lambda: len(first.handled) > 50, what="the first to work")

        # When two join and two leave, in the midst of the work
        second = Member(world, affect, kafka=kafka)
        wait_until(lambda: len(second.handled) > 50, what="the second to work")
        third = Member(world, affect, kafka=kafka)
        first.leave()
        wait_until(lambda: len(third.handled) > 50, what="the third to work")
        second.leave()
    wait_until(lambda: len(world.effects()) >= len(sent), what="all effects")
    third.leave()

    # Then everything took effect once, in the order of its partition, and Kafka knows
    effects = world.effects()
    assert sorted(effects) == sorted(sent)
    for partition in range(PARTITIONS):
        expected = sent[partition::PARTITIONS]
        assert [each for each in effects if each in set(expected)] == expected
    assert sum(world.offsets) == len(sent)


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_a_waiting_message_whose_partition_moves_away_and_back_is_not_lost(
    world: World, strategy: str
) -> None:
    kafka = world.properties(**{"partition.assignment.strategy": strategy})
    healed = threading.Event()

    def failing(tried: set[str]) -> Callable[[Connection, ReceivedMessage], None]:
        def handler(transaction: Connection, message: ReceivedMessage) -> None:
            tried.add(message.id)
            if message.id.startswith("bad") and not healed.is_set():
                raise ValueError("not yet")
            affect(transaction, message)

        return handler

    # Given a consumer whose partitions both wait for a message that fails
    for partition in (0, 1):
        good, behind = f"good-{partition}", [f"behind-{partition}-{n}" for n in range(20)]
        world.send([good, f"bad-{partition}", *behind], partition=partition)
    tried_by_first: set[str] = set()
    tried_by_second: set[str] = set()
    delays = {"retry_delay": 0.3, "max_retry_delay": 0.3}
    first = Member(world, failing(tried_by_first), kafka=kafka, **delays)
    wait_until(lambda: {"bad-0", "bad-1"} <= tried_by_first, what="both to fail")

    # When a second one takes a partition over, and gives it back
    second = Member(world, failing(tried_by_second), kafka=kafka, **delays)
    wait_until(lambda: tried_by_second, what="the second to take over")
    tried_by_first.clear()
    second.leave()
    wait_until(lambda: {"bad-0", "bad-1"} <= tried_by_first, what="the first to take it back")
    healed.set()
    wait_until(lambda: len(world.effects()) == 44, what="all effects")
    first.leave()

    # Then nothing was lost, nothing doubled, and each partition kept its order
    effects = world.effects()
    for partition in (0, 1):
        behind = [f"behind-{partition}-{n}" for n in range(20)]
        expected = [f"good-{partition}", f"bad-{partition}", *behind]
        assert [each for each in effects if each in expected] == expected
    assert world.offsets == [22, 22]


@pytest.mark.slow
def test_a_handler_that_was_too_slow_for_kafka_has_one_effect(world: World) -> None:
    # Given a consumer that Kafka expels while its handler is at work
    world.send(ids(3), partition=0)
    inside, go_on = threading.Event(), threading.Event()

    def slow(transaction: Connection, message: ReceivedMessage) -> None:
        affect(transaction, message)
        inside.set()
        assert go_on.wait(60)

    expelled = Member(world, slow, kafka=world.properties(**{"max.poll.interval.ms": 6000}))
    assert inside.wait(30)

    # When another one takes the same message, and has to wait for the row of the first
    successor = Member(world, affect)
    wait_until(lambda: _waits_for_a_row(world), what="the successor to wait", timeout=60)
    go_on.set()
    wait_until(lambda: len(world.effects()) == 3, what="all effects")
    successor.leave()
    expelled.leave()

    # Then the first one's effect counted, once
    assert world.effects() == ids(3)
    assert successor.handled == ids(3)[1:]
    assert world.offsets[0] == 3


def _waits_for_a_row(world: World) -> bool:
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    with world.engine.connect() as connection:
        return bool(connection.execute(text(query)).scalar())
