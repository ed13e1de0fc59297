"""Pauses and limits as operators meet them: processes, signals, exit codes."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from outbox.publishers.mock_kafka import MockKafka
from tests.acceptance.command import Commands
from tests.acceptance.test_cli import write
from tests.servers.ports import free_port
from tests.waiting import wait_until


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    with MockKafka() as mock:
        for topic in ("orders", "others"):
            mock.make_topic(topic)
        yield mock


@pytest.fixture
def outbox_relay(tmp_path: Path, kafka: MockKafka) -> Commands:
    commands = Commands(tmp_path, f"sqlite:///{tmp_path}/log.db")
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
    assert commands("migrate").code == 0
    return commands


@pytest.fixture
def published(kafka: MockKafka) -> Iterator[list[str]]:
    """Give what arrived so far, as a list that `until` fills."""
    found: list[str] = []
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe(["orders", "others"])

    class Filling(list[str]):
        def until(self, expected: list[str], *, after_a_kill: bool = False) -> None:
            """Wait for just these; after a kill some may have come again."""

            def poll() -> bool:
                message = consumer.poll(0.1)
                if message is not None and message.error() is None:
                    found.append((message.value() or b"").decode())
                arrived = set(found) if after_a_kill else found
                return sorted(arrived) == sorted(expected)

            wait_until(poll, what=f"{expected} instead of {found}")

        @property
        def orders(self) -> list[str]:
            return [payload for payload in found if payload.startswith("order")]

    yield Filling()
    consumer.close()


def health(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
        return json.load(answer)


def test_a_relay_is_paused_and_resumed_while_it_runs(
    outbox_relay: Commands, published: Any
) -> None:
    port = free_port()
    with outbox_relay.start("run", "--http-port", str(port)) as relay:
        relay.says("holds the lane")
        assert outbox_relay("pause", "--lane", "default", "--reason", "repairs").code == 0
        relay.says("lane default is paused: nothing of it is sent", timeout=10)
        write(outbox_relay, "order 1", "order 2", topic="orders")

        said = health(port)
        assert (said["state"], said["healthy"], said["paused"]) == ("paused", True, ["default"])
        status = outbox_relay("status", "--json").json
        assert status["relays"][0]["lag_messages"] == 2
        assert status["paused"][0]["reason"] == "repairs"
        published.until([])

        assert outbox_relay("resume", "--lane", "default").code == 0
        published.until(["order 1", "order 2"])
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0


def test_a_drain_of_a_paused_lane_ends_with_6_and_says_so(
    outbox_relay: Commands, published: Any
) -> None:
    write(outbox_relay, "order 1", topic="orders")
    outbox_relay("pause", "--all")

    done = outbox_relay("run", "--drain")

    assert done.code == 6
    assert "not everything is delivered: lane default is paused" in done.err
    outbox_relay("resume", "--all")
    assert outbox_relay("run", "--drain").code == 0
    published.until(["order 1"])


def test_a_paused_topic_outlives_a_relay_that_is_killed(
    outbox_relay: Commands, published: Any
) -> None:
    outbox_relay("pause", "--topic", "orders")
    with outbox_relay.start("run") as relay:
        write(outbox_relay, "order 1", "order 2", topic="orders")
        write(outbox_relay, "other", topic="others")
        published.until(["other"])
        relay.signal(signal.SIGKILL)
        relay.wait()
    write(outbox_relay, "order 3", topic="orders")

    done = outbox_relay("run", "--drain", "--lease", "1")
    assert done.code == 6
    assert "messages of relay default are held" in done.err

    outbox_relay("resume", "--topic", "orders")
    with outbox_relay.start("run") as relay:
        published.until(["other", "order 1", "order 2", "order 3"], after_a_kill=True)
        assert published.orders == ["order 1", "order 2", "order 3"]
        relay.signal(signal.SIGTERM)
        assert relay.wait() == 0
    assert outbox_relay("run", "--drain").code == 0


def test_a_limit_that_is_none_is_refused(outbox_relay: Commands) -> None:
    for value in ("0", "-1", "nan", "many"):
        done = outbox_relay("run", "--max-messages-per-second", value)
        assert done.code == 78
        assert "max_messages_per_second (flag --max-messages-per-second)" in done.err
