"""Each class of fault, provoked for real: what the relay says of it, and that it costs nothing.

Servers that go away, slow networks, topics that are missing, compacted or too small: see
test_relay_outages, test_network and test_relay_refusals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AclOperation

from tests.acceptance import relay_process
from tests.acceptance.guarded_kafka import (
    SmallDiskKafka,
    allow,
    allow_transactions,
    guarded_kafka,
    login,
)
from tests.acceptance.judged import counts_no_attempt, is_judged
from tests.acceptance.relay_process import Scene, warnings
from tests.servers.availability import require
from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_topics import KafkaServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.acceptance.command import Running

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

LEADER, STAYS = 2, 1  # broker 1 is the controller
MakeScene = Callable[..., Scene]


@pytest.fixture
def scene_with(postgresql_url: str, kafka: KafkaServer, tmp_path: Path) -> Iterator[MakeScene]:
    """Give `scene_with(topic, server=kafka)`: a log whose messages go to a topic."""
    with ExitStack() as stack:
        yield lambda topic, server=kafka: stack.enter_context(
            relay_process.scene(postgresql_url, server, tmp_path, topic)
        )


@pytest.fixture(scope="module")
def guarded() -> Iterator[KafkaCluster]:
    with ExitStack() as stack:
        yield require(lambda: stack.enter_context(guarded_kafka()))


def the_only_warning(relay: Running) -> str:
    (warning,) = warnings(relay)
    return warning


# The broker's


def test_a_leader_that_is_lost_is_followed_by_another(
    scene_with: MakeScene, guarded: KafkaCluster
) -> None:
    # Given a relay that sends to a leader
    scene = scene_with(guarded.create_topic(replica_assignment=[[LEADER, STAYS]] * 2), guarded)
    relay = scene.holder()
    with scene.flow():
        scene.wait_until_delivered()
        # When the leader is killed
        guarded.broker(LEADER).kill()
        # Then all goes on at the other one
        scene.wait_until_delivered()
        counts_no_attempt(scene)
        guarded.broker(LEADER).start()
    is_judged(scene)
    # And it is said once at the most, with its end
    ends = [line for line in relay.lines if "going on" in line]
    assert len(warnings(relay)) == len(ends) <= 1, relay.lines


def test_acknowledgements_that_cannot_be_had_for_want_of_replicas_are_waited_for(
    scene_with: MakeScene, guarded: KafkaCluster
) -> None:
    # Given a topic that wants two replicas in sync, of which one is away
    both = {"replica_assignment": [[STAYS, LEADER]] * 2, "min_insync_replicas": "2"}
    scene = scene_with(guarded.create_topic(**both), guarded)
    guarded.broker(LEADER).pause()
    try:
        _wait_for_one_replica(guarded, scene.topic)
        # When a relay sends to it
        scene.write(each=20)
        relay = scene.relay("-X", f"bootstrap.servers=127.0.0.1:{guarded.broker(STAYS).port}")
        # Then it says where it is stuck and how to find out why, and waits
        relay.says("; waiting")
        assert f"topic {scene.topic!r}" in the_only_warning(relay)
        assert "`outbox-relay doctor`" in the_only_warning(relay)
        counts_no_attempt(scene)
        scene.write(each=20)
    finally:
        guarded.broker(LEADER).resume()
    # And goes on when the replica is back
    relay.says("going on")
    is_judged(scene)


def _wait_for_one_replica(guarded: KafkaCluster, topic: str) -> None:
    # Only the leader knows for sure.
    leader = KafkaServer(f"127.0.0.1:{guarded.broker(STAYS).port}")
    wait_until(
        lambda: all(len(each.isrs) == 1 for each in leader.describe(topic).values()),
        what="the topic to have one replica in sync",
    )


def test_a_full_disk_of_the_broker_is_waited_out(scene_with: MakeScene) -> None:
    with ExitStack() as stack:
        small = require(lambda: stack.enter_context(SmallDiskKafka(size_mib=24)))
        # Given more messages than the broker's disk has room for
        scene = scene_with(small.create_topic(partitions=2), small)
        scene.write(each=600, padding=10_000)
        # When they are relayed, and the broker ends for want of room
        relay = scene.relay("--lease", "5")
        relay.says("; waiting")
        wait_until(lambda: not small.broker(1).running, what="the end of the broker")
        assert "No space left" in small.log_tail()
        counts_no_attempt(scene)
        # Then all of them arrive when it is back with more room
        small.make_room(size_mib=256)
        small.start()
        relay.says("going on")
        is_judged(scene)
        assert len(warnings(relay)) == 1, relay.lines


# The configuration's


@pytest.mark.parametrize("delivery", ["at-least-once", "exactly-once"])
def test_a_topic_that_the_relay_may_not_write_to_stops_no_other(
    scene_with: MakeScene, guarded: KafkaCluster, delivery: str
) -> None:
    # Given two topics, to one of which the relay may write
    scene = scene_with(guarded.create_topic(partitions=2), guarded)
    allow(guarded, "relay", scene.topic, AclOperation.READ)
    allowed = guarded.create_topic()
    allow(guarded, "relay", allowed, AclOperation.WRITE, AclOperation.READ)
    allow_transactions(guarded, "relay")
    scene.commands.variables |= login(guarded, "relay")
    scene.write(each=20)
    scene.query(
        "insert into outbox_message (topic, key, payload) values (%(topic)s, 'k', 'x')",
        topic=allowed,
    )
    # When a relay meets them
    relay = scene.relay("--delivery", delivery)
    wait_until(lambda: guarded.read(allowed), what="the message of the other topic")
    # Then it has said which one, and what is missing
    wait_until(lambda: scene.query("select from outbox_held limit 1"), what="what is held")
    said = "".join(warnings(relay))
    assert f"topic {scene.topic!r}" in said
    assert "uthoriz" in said
    assert "grant" in said
    counts_no_attempt(scene)
    # And when it is granted, all goes
    allow(guarded, "relay", scene.topic, AclOperation.WRITE)
    relay.says("is there again", timeout=60)
    is_judged(scene)


def test_a_producer_that_is_fatally_broken_is_made_anew_until_it_works(
    scene_with: MakeScene, guarded: KafkaCluster
) -> None:
    # Given a relay that may write to no topic at all, so that Kafka gives it no producer's id
    scene = scene_with(guarded.create_topic(partitions=2), guarded)
    allow(guarded, "stranger", scene.topic, AclOperation.DESCRIBE)
    scene.commands.variables |= login(guarded, "stranger")
    scene.write(each=20)
    # When it sends
    relay = scene.relay("--lease", "2")
    # Then it says why not, and tries again
    relay.says("; waiting")
    assert "uthoriz" in the_only_warning(relay)
    assert scene.topic_now() == []
    counts_no_attempt(scene)
    # And when that is granted, all goes
    allow(guarded, "stranger", scene.topic, AclOperation.WRITE)
    relay.says("going on", timeout=60)
    is_judged(scene)


def test_a_message_above_the_producers_limit_is_held_until_that_is_raised(
    scene: Scene,
) -> None:
    # Given a message that the relay's own producer would not take
    scene.write(each=50)
    scene.write(padding=5_000)
    scene.write(each=50)
    # When it is relayed
    done = scene.commands("run", "--drain", "-X", "message.max.bytes=2000")
    # Then it is held, and the setting is named
    assert done.code == 6, done.err
    assert "Raise message.max.bytes" in done.err
    assert scene.verdict().reordered == 0
    # And goes with another one
    scene.holder()
    is_judged(scene)


# The message's


def test_a_name_that_no_topic_can_have_is_held_against_the_message(scene: Scene) -> None:
    # Given a message from plain SQL for a topic that nobody can make
    scene.write(each=20)
    scene.query("insert into outbox_message (topic, key, payload) values ('..', 'k', 'x')")
    scene.write(each=20)
    # When it is relayed, then it alone is held, and what to do is said
    done = scene.commands("run", "--drain")
    assert done.code == 6, done.err
    assert "no topic can be called '..'" in done.err
    assert "discard" in done.err
    assert "create the topic" not in done.err
    assert scene.query("select state, attempts from outbox_held") == [("retrying", 1)]
    assert scene.verdict().faults == 0


# Ours


def test_a_full_queue_of_the_producer_costs_time_alone(scene: Scene) -> None:
    # Given a producer with room for a few messages, and many to send
    scene.write(each=1_000)
    small = ["-X", "queue.buffering.max.messages=10", "-X", "queue.buffering.max.kbytes=1"]
    # When they are relayed, then all arrive once and in order, and there is nothing to say
    done = scene.commands("run", "--drain", *small)
    assert (done.code, done.err.count("warning")) == (0, 0), done.err
    is_judged(scene, repeats=0)
