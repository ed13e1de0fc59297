"""The consumer's loop on a real Kafka and a real PostgreSQL."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from confluent_kafka import Producer
from sqlalchemy import Connection, text

from outbox.errors import MissingMessageId
from outbox.inbox import InboxConsumer, Outcome, ReceivedMessage
from tests.integration.inbox_world import IDLE, World, affect, ids, make_world, take
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]
world = pytest.fixture(make_world)


def test_every_message_takes_effect_in_order_and_then_its_offset_is_committed(
    world: World,
) -> None:
    # Given messages in two partitions
    world.send(ids(40))

    # When a consumer runs until nothing comes any more
    with world.consume() as consumer:
        consumer.run(affect, until_idle=IDLE)

    # Then each took effect once, in the order of its partition
    effects = world.effects()
    assert [each for each in effects if each in ids(40)[0::2]] == ids(40)[0::2]
    assert [each for each in effects if each in ids(40)[1::2]] == ids(40)[1::2]
    assert len(effects) == 40

    # And Kafka knows how far the consumer is
    assert world.offsets == [20, 20]


def test_replaying_the_topic_three_times_adds_no_effect(world: World) -> None:
    # Given a topic that one consumer name has taken
    world.send(ids(20))
    with world.consume() as consumer:
        consumer.run(affect, until_idle=IDLE)

    # When it is read from its beginning three times more, by groups without offsets
    for n in range(3):
        kafka = world.properties(**{"group.id": f"{world.consumer}-{n}"})
        with world.consume(kafka=kafka) as consumer:
            assert [take(consumer, pytest.fail) for _ in range(20)] == [Outcome.DUPLICATE] * 20

    # Then the effects are those of the first time
    assert sorted(world.effects()) == sorted(ids(20))


def test_a_handler_that_fails_twice_has_one_effect_and_keeps_the_order(world: World) -> None:
    # Given a handler that fails twice with the second message, after it wrote
    world.send(ids(5), partition=0)
    failures = {"m-1": 2}

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        affect(transaction, message)
        if failures.get(message.id):
            failures[message.id] -= 1
            raise ValueError("not yet")

    # When it runs
    with world.consume() as consumer:
        outcomes = [take(consumer, handler) for _ in range(7)]

    # Then the message failed twice before anything later came, and every effect is there once
    handled, failed = Outcome.HANDLED, Outcome.FAILED
    assert outcomes == [handled, failed, failed, handled, handled, handled, handled]
    assert world.effects() == ids(5)


def test_a_message_that_fails_holds_up_its_partition_and_no_other(world: World) -> None:
    # Given a message that fails until all of the other partition, sent later, has taken effect
    world.send(["bad", *ids(5, "behind")], partition=0)
    attempts: list[int] = []

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        if message.id == "bad":
            attempts.append(len(world.effects()))
            if attempts == [0]:
                world.send(ids(100, "other"), partition=1)
            if attempts[-1] < 100:
                raise ValueError("not yet")
        affect(transaction, message)

    # When it runs
    with world.consume() as consumer:
        consumer.run(handler, until_idle=IDLE)

    # Then the other partition went on, and what was behind the message came after it
    assert world.effects() == [*ids(100, "other"), "bad", *ids(5, "behind")]
    assert world.offsets == [6, 100]


def test_a_partition_that_waits_is_paused_so_that_memory_stays_bounded(world: World) -> None:
    # Given a message that fails, with others behind it, and a partition that flows
    world.send(["bad", *ids(50, "behind")], partition=0)
    world.send(ids(50, "other"), partition=1)

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        if message.id == "bad":
            raise ValueError("not yet")

    # When it runs until the message has failed three times and the other partition has flown
    outcomes: list[Outcome] = []
    with world.consume(max_retry_delay=0.05) as consumer:
        wait_until(lambda: _taken(consumer, handler, outcomes) == (50, 3), what="both partitions")

        # Then nothing but the message itself is kept at hand
        held = consumer._pending._queues
        assert [len(queue) for queue in held.values()] == [1]


def _taken(
    consumer: InboxConsumer[Connection], handler: Callable[..., None], outcomes: list[Outcome]
) -> tuple[int, int]:
    outcomes.append(take(consumer, handler))
    return outcomes.count(Outcome.HANDLED), min(3, outcomes.count(Outcome.FAILED))


def test_a_failure_is_logged_with_its_place_and_without_the_payload(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    # Given a message with a secret, whose handler fails twice
    world.send(["m-0"], partition=1, payload=b"secret")
    outcomes: list[Outcome] = []

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        if len(outcomes) < 2:
            raise ValueError(f"cannot handle {message}")

    # When it runs until the message is handled
    with caplog.at_level(logging.WARNING, "outbox"), world.consume() as consumer:
        outcomes.extend(take(consumer, handler) for _ in range(3))

    # Then each failure has one record, the traceback is in the first
    first, second = [each for each in caplog.records if "failed with" in each.message]
    place = f"message m-0 (topic {world.topic}, partition 1, offset 0) failed with ValueError"
    assert first.message.startswith(f"{place}, attempt 1")
    assert second.message.startswith(f"{place}, attempt 2")
    assert (first.levelname, second.levelname) == ("ERROR", "WARNING")
    assert first.exc_info
    assert not second.exc_info
    assert "secret" not in caplog.text


def test_stop_interrupts_the_wait_for_the_next_attempt(world: World) -> None:
    # Given a message that fails and would wait for a minute
    world.send(["m-0"], partition=0)
    failed, stop = threading.Event(), threading.Event()

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        failed.set()
        raise ValueError("never")

    with world.consume(retry_delay=60.0, max_retry_delay=60.0) as consumer:
        running = threading.Thread(target=consumer.run, args=(handler,), kwargs={"stop": stop})
        running.start()
        assert failed.wait(30)

        # When it is told to stop
        stop.set()
        running.join(5)

        # Then it stops, and Kafka keeps the message for the next one
        assert not running.is_alive()
    assert world.offsets[0] == -1001
    assert world.effects() == []


def test_no_offset_is_ever_ahead_of_the_database(world: World) -> None:
    # Given a handler that looks what Kafka has been told whenever a message comes
    world.send(ids(30), partition=0)
    seen: list[tuple[int, int]] = []

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        seen.append((world.offsets[0], len(world.effects())))
        affect(transaction, message)

    # When it runs
    with world.consume() as consumer:
        consumer.run(handler, until_idle=IDLE)

    # Then never more than the database had, though there were commits in between
    assert all(offset <= effects for offset, effects in seen)
    assert any(offset > 0 for offset, _ in seen)
    assert world.offsets[0] == 30


def test_a_commit_that_the_database_refuses_is_tried_again(world: World) -> None:
    # Given a database that refuses the commit of the second message twice
    world.send(ids(3), partition=0)
    refusals = [False, False, True, True]  # the first message is looked for after its commit

    @contextmanager
    def factory() -> Iterator[Connection]:
        with world.engine.begin() as connection:
            yield connection
            if refusals and refusals.pop(0):
                connection.execute(text("select 1 / 0"))

    # When it runs
    with world.consume(transaction_factory=factory) as consumer:
        consumer.run(affect, until_idle=IDLE)

    # Then everything took effect once, in order
    assert refusals == []
    assert world.effects() == ids(3)


def test_a_message_without_id_stops_the_run_and_is_not_lost(world: World) -> None:
    # Given a message without an id between two others
    world.send(["m-0", "", "m-2"], partition=0)
    with world.consume() as consumer:
        # When it runs, also a second time
        for _ in range(2):
            with pytest.raises(MissingMessageId, match=r"offset 1 .*id_from="):
                consumer.run(affect, until_idle=IDLE)

    # Then nothing behind it was taken and its offset was not committed
    assert world.effects() == ["m-0"]
    assert world.offsets[0] == 1

    # And a consumer that can name it goes on from there
    with world.consume(id_from=lambda m: f"at-{m.offset()}") as consumer:
        consumer.run(affect, until_idle=IDLE)
    assert world.effects() == ["m-0", "at-1", "m-2"]


def test_an_interrupt_in_the_handler_loses_nothing(world: World) -> None:
    # Given a handler that is interrupted once
    world.send(ids(2), partition=0)
    interrupts = [KeyboardInterrupt]

    def handler(transaction: Connection, message: ReceivedMessage) -> None:
        affect(transaction, message)
        if interrupts:
            raise interrupts.pop()

    with world.consume() as consumer:
        with pytest.raises(KeyboardInterrupt):
            take(consumer, handler)

        # When it goes on
        consumer.run(handler, until_idle=IDLE)

    # Then every effect is there once
    assert world.effects() == ids(2)


def test_the_last_offsets_are_committed_when_nothing_comes_in(world: World) -> None:
    world.send(ids(3), partition=0)
    with world.consume() as consumer:
        for _ in range(3):
            take(consumer)
        wait_until(lambda: _idle_until_committed(world, consumer), what="the offset 3")


def _idle_until_committed(world: World, consumer: InboxConsumer[Connection]) -> bool:
    consumer.run_once(pytest.fail, timeout=0.05)
    return world.offsets[0] == 3


def test_closing_does_not_hang_when_the_broker_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a consumer of a cluster that has just vanished, with an offset to commit
    monkeypatch.setattr("outbox.inbox.subscription.PARTING", 0.2)
    cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    for name in ids(3):
        cluster.produce(world.topic, b"", headers=[("id", name.encode())])
    assert cluster.flush(10) == 0
    addresses = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    consumer = world.consume(
        kafka=world.properties(**{"bootstrap.servers": addresses, "log_level": 0})
    )
    wait_until(lambda: consumer.run_once(affect, timeout=0.1), what="a message")
    del cluster
    wait_until(lambda: consumer.run_once(affect, timeout=0.1), what="another message")

    # When it is closed
    began = time.monotonic()
    consumer.close()

    # Then it does not wait for the session to time out
    assert time.monotonic() - began < 5
