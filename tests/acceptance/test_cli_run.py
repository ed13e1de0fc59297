"""`outbox-relay run` against a real Kafka: drains, stops when told, waits for servers."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.command import Commands
from tests.acceptance.test_cli import write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer

pytestmark = pytest.mark.kafka

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=KINDS)
def outbox_relay(request: pytest.FixtureRequest, tmp_path: Path, kafka: KafkaServer) -> Commands:
    """Give the commands, with the tables made and a broker to publish to."""
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/log.db" if sqlite else request.getfixturevalue("postgresql_url")
    commands = Commands(tmp_path, str(url))
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
    assert commands("migrate").code == 0
    return commands


@pytest.fixture(scope="module")
def topic(kafka: KafkaServer) -> str:
    """Give the topic that the messages of these tests go to."""
    return kafka.create_topic(partitions=1)


def payloads(kafka: KafkaServer, topic: str) -> list[str]:
    return [(message.value() or b"").decode() for message in kafka.read(topic)]


def test_a_drain_delivers_what_is_committed_and_ends(
    outbox_relay: Commands, kafka: KafkaServer, topic: str
) -> None:
    expected = [f"drain {outbox_relay.directory} {i}" for i in range(50)]
    write(outbox_relay, *expected, topic=topic)
    done = outbox_relay("run", "--drain")
    assert (done.code, done.out) == (0, ""), done.err
    assert "relay default has ended; it delivered 50 messages" in done.err
    assert payloads(kafka, topic)[-50:] == expected
    assert outbox_relay("status", "--fail-if-lag", "0").code == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_hands_the_lane_over(
    outbox_relay: Commands, kafka: KafkaServer, topic: str, number: int
) -> None:
    # Given a relay that runs
    with outbox_relay.start("run", "--log-format", "json") as running:
        running.says("holds the lane")
        last = f"signal {number} {outbox_relay.directory}"
        write(outbox_relay, last, topic=topic)
        wait_until(lambda: last in payloads(kafka, topic), what="the message to arrive")
        # When it is told to stop
        running.signal(number)
        assert running.wait() == 0
    # Then the lane is free at once, and the log was JSON, one event a line
    (relay,) = outbox_relay("status", "--json").json["relays"]
    assert (relay["owner"], relay["lag_messages"], relay["processes"]) == (None, 0, [])
    # librdkafka may print a last word of its own, past any logger, while it is torn down
    ours = [line for line in running.lines if not line.startswith("%6|")]
    assert all(json.loads(line)["level"] for line in ours)


def test_a_second_process_stands_by_and_takes_over(
    outbox_relay: Commands, kafka: KafkaServer, topic: str
) -> None:
    with outbox_relay.start("run") as first:
        first.says("holds the lane")
        with outbox_relay.start("run") as second:
            second.says("on standby")
            first.signal(signal.SIGTERM)
            second.says("holds the lane")
            last = f"standby {outbox_relay.directory}"
            write(outbox_relay, last, topic=topic)
            wait_until(lambda: last in payloads(kafka, topic), what="the message to arrive")
            second.signal(signal.SIGTERM)
            assert (first.wait(), second.wait()) == (0, 0)


def test_it_waits_for_a_broker_that_is_away_and_stops_when_told(outbox_relay: Commands) -> None:
    with outbox_relay.start("run", "-X", "bootstrap.servers=127.0.0.1:1") as running:
        running.says("Kafka cannot be reached")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    assert sum("cannot be reached" in line for line in running.lines) == 1
