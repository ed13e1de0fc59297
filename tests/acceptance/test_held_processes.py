"""Relay processes that share a lane's shards while messages cannot be sent, and shards change."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, LiteralString

import psycopg
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from outbox.database import DatabaseUrl
from outbox.relay.settings import RelaySettings
from outbox.store.lanes import Lane
from tests.acceptance.lane_scene import LaneScene
from tests.acceptance.topic_check import Findings, Occurrence, examine
from tests.servers.kafka_topics import QUIET
from tests.verify.world import compared
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.acceptance.command import Running
    from tests.acceptance.relay_process import Scene

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

SMALL, LARGE = 2_000, 3_000  # bytes that a topic takes in one batch, and of some messages for it

#: Every third key goes to the topic that takes small messages only; of these every seventh message
#: is too large for it.
_WRITE: LiteralString = """
    with locked as (select key from counter where key = any(%(keys)s) order by key for update),
         drawn as (update counter set number = number + %(each)s
                    where key in (select key from locked) returning key, number),
         numbered as (select key, number - %(each)s + i as number, i,
                             substr(key, 2)::int %% 3 = 0 as is_small
                        from drawn, generate_series(1, %(each)s) as i)
    insert into outbox_message (topic, key, payload)
    select case when is_small then %(small)s else %(topic)s end, key,
           convert_to(number::text || case when is_small and number %% 7 = 0
                                           then repeat(' ', %(large)s) else '' end, 'UTF8')
      from numbered order by i, key"""

_RETRY = """[retry]
delay = "fixed"
first_s = 0.3
max_attempts = "never"
"""


class HeldScene(LaneScene):
    """A scene with a second topic, which does not take all of its messages yet."""

    small: str

    def prepare(self) -> None:
        self.small = self.kafka.create_topic(max_message_bytes=str(SMALL), partitions=2)
        (self.commands.directory / "outbox.toml").write_text(_RETRY)

    def _write_keys(self, connection: psycopg.Connection, keys: list[str], each: int) -> None:
        topics = {"topic": self.topic, "small": self.small, "large": LARGE}
        connection.execute(_WRITE, {"keys": keys, "each": each, **topics})

    def take_large_ones(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers, **QUIET})
        entry = ConfigEntry(
            "max.message.bytes", "1048588", incremental_operation=AlterConfigOpType.SET
        )
        topic = ConfigResource(ResourceType.TOPIC, self.small, incremental_configs=[entry])
        for done in admin.incremental_alter_configs([topic]).values():
            done.result(30)

    def held(self, state: str) -> set[str]:
        """Return the keys of which messages are held in this state."""
        sql: LiteralString = "select distinct key from outbox_held where state = %(state)s"
        return {key for (key,) in self.query(sql, state=state)}

    def wait_for_more_held(self) -> None:
        """Wait until messages are held that were not yet."""
        ((top,),) = self.query("select coalesce(max(seq), 0) from outbox_held")
        wait_until(
            lambda: (
                len(
                    self.query(
                        "select from outbox_held where seq > %(top)s and state = 'blocked'", top=top
                    )
                )
                > 20
            ),
            what="more messages to be held",
        )

    def wait_until_none_is_held(self) -> None:
        wait_until(
            lambda: not self.query("select from outbox_held limit 1"),
            what="what is held to go",
            timeout=60.0,
        )

    def topic_now(self) -> list[Occurrence]:
        """Return what both topics hold."""
        return [
            Occurrence(
                (message.partition() or 0) + 100 * place,
                (message.key() or b"").decode(),
                int(message.value() or b"0"),
            )
            for place, topic in enumerate((self.topic, self.small))
            for message in self.kafka.read(topic)
        ]

    def verdict(self) -> Findings:
        """Compare the topics with what is committed, by the numbers, and as `verify` does."""
        findings = examine(self.topic_now(), self.committed())
        url, topics = DatabaseUrl.parse(self.url), (self.topic, self.small)
        judged = compared(url, self.kafka, relay="default", topics=topics).topics
        assert sum(each.again for each in judged) == findings.repeats, (judged, findings)
        assert any(each.out_of_order for each in judged) == bool(findings.reordered), judged
        assert sum(each.missing for each in judged) == findings.lost, (judged, findings)
        return findings


@pytest.fixture
def lanes(scene: Scene) -> HeldScene:
    made = HeldScene.of(scene)
    assert isinstance(made, HeldScene)
    made.prepare()
    return made


def default(shards: int) -> Lane:
    return Lane("default", shards=shards)


def kill(scene: HeldScene, running: list[Running], place: int) -> None:
    """Kill a process, and start another one in its place."""
    running[place].signal(signal.SIGKILL)
    running[place].process.wait()
    running[place] = scene.relay("--lease", "2")


@pytest.mark.timeout(180)
def test_held_messages_go_through_kills_and_changes_of_shards_in_the_order_of_their_keys(
    lanes: HeldScene, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given two processes that share four shards, on each of which keys are stopped
    lanes.lanes(default(4))
    running = [lanes.relay("--lease", "2") for _ in range(2)]
    with lanes.writers(4):
        lanes.wait_for_more_held()
        # When the number of shards changes and changes back, while one is killed amid each change
        lanes.lanes(default(2))
        kill(lanes, running, 0)
        lanes.wait_for_change(default(2))
        lanes.wait_for_more_held()
        lanes.lanes(default(4))
        kill(lanes, running, 1)
        lanes.wait_for_more_held()
    lanes.wait_until_delivered()
    # Then the keys of the other topic flow, and of this one each waits behind its first message
    assert lanes.held("blocked") <= lanes.held("retrying")
    assert lanes.held("dead") == lanes.held("expired") == set()
    held = len(lanes.query("select from outbox_held"))
    # And when the topic takes them, and a process dies while they go, all of them go, in order
    lanes.take_large_ones()
    kill(lanes, running, 0)
    lanes.wait_until_none_is_held()
    lanes.wait_until_delivered()
    findings = lanes.verdict()
    assert findings.faults == 0, findings
    assert findings.repeats <= 3 * RelaySettings().in_flight_messages * 5, findings
    with capsys.disabled():
        print(f"\n{held} messages were held at the end: {findings}")


@pytest.mark.timeout(120)
def test_held_messages_go_once_while_one_stream_becomes_three_and_one_again(
    lanes: HeldScene,
) -> None:
    # Given two processes, of which one has the only stream, and messages that are held
    pair = [lanes.relay("--lease", "60") for _ in range(2)]
    with lanes.writers(2):
        lanes.wait_for_more_held()
        # When they can go, and the number of shards changes just then
        lanes.take_large_ones()
        lanes.lanes(default(3))
        lanes.wait_for_change(default(3))
        lanes.lanes(default(1))
        lanes.wait_for_change(default(1))
    lanes.wait_until_none_is_held()
    lanes.wait_until_delivered()
    # Then each has gone once, in order
    findings = lanes.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert all(each.process.poll() is None for each in pair)
