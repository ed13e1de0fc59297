"""What a relay process does about messages and settings that cannot work, and when it drains."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.acceptance import relay_process
from tests.acceptance.command import Commands
from tests.acceptance.relay_process import HOLDS, STANDBY, Scene, configure, warnings
from tests.acceptance.topic_check import examine
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka import KafkaCluster
    from tests.servers.kafka_topics import KafkaServer

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

SMALL = 2_000  # bytes that a topic takes in one batch
MakeScene = Callable[[str], Scene]


@pytest.fixture
def scene_with(postgresql_url: str, kafka: KafkaServer, tmp_path: Path) -> Iterator[MakeScene]:
    """Give `scene_with(topic)`: a log whose messages go to a topic of this name."""
    with ExitStack() as stack:
        yield lambda topic: stack.enter_context(
            relay_process.scene(postgresql_url, kafka, tmp_path, topic)
        )


# Draining


def test_a_drain_ends_although_others_go_on_writing(scene: Scene) -> None:
    # Given messages, one of them in a transaction that stays open, and writers that go on
    scene.write(each=1_000)
    with psycopg.connect(scene.url) as undecided, scene.flow():
        undecided.execute("insert into outbox_message (topic, key) values ('t', 'undecided')")
        # When everything committed is to be delivered
        committed = scene.committed()
        done = scene.commands("run", "--drain")
        undecided.rollback()
    # Then it ends by itself, and all that was committed before is there
    assert (done.code, done.out) == (0, ""), done.err
    assert examine(scene.topic_now(), committed).lost == 0


def test_a_drain_waits_for_its_turn_however_long_another_has_the_lane(scene: Scene) -> None:
    # Given a lane that stays with somebody else for longer than a server may be away
    scene.write()
    scene.query(
        """update outbox_cursor
              set owner = 'elsewhere', lease_until = clock_timestamp() + interval '3 s',
                  written_by = pg_current_xact_id()"""
    )
    # When a drain begins
    done = scene.commands("run", "--drain", "--connect-timeout", "1")
    # Then it has its turn
    assert done.code == 0, done.err
    assert STANDBY in done.err
    assert scene.verdict().lost == 0


@pytest.mark.parametrize(("server", "code"), [("broker", 4), ("database", 3)])
def test_a_drain_gives_up_on_a_server_that_goes_away_under_it(
    fragile: Scene, server: str, code: int, request: pytest.FixtureRequest
) -> None:
    # Given a drain that has begun
    fragile.write(each=5_000)
    drain = fragile.holder("--drain", "--connect-timeout", "2")
    # When a server goes away
    request.getfixturevalue(server).kill()
    # Then the drain ends and says which
    assert drain.wait() == code, drain.lines
    # And what it left undone is done the next time
    request.getfixturevalue(server).start()
    assert fragile.commands("run", "--drain").code == 0
    assert fragile.verdict().faults == 0


# Settings that cannot work


def test_an_unknown_relay_name_ends_it_with_the_way_to_make_one(scene: Scene) -> None:
    done = scene.commands("run", "--name", "audit")
    assert done.code == 78
    assert "`outbox-relay relays create audit --from earliest|latest`" in done.err


def test_a_database_without_the_tables_ends_it_with_a_sentence(
    postgresql_url: str, kafka: KafkaServer, tmp_path: Path
) -> None:
    commands = Commands(tmp_path, postgresql_url)
    done = commands("run", "-X", f"bootstrap.servers={kafka.bootstrap_servers}")
    assert done.code == 5
    assert "run `outbox-relay migrate`" in done.err
    assert "Traceback" not in done.err


def test_another_kafka_cluster_is_refused_until_that_is_allowed(
    scene: Scene, broker: KafkaCluster
) -> None:
    # Given a relay name that has published to one cluster
    scene.write()
    assert scene.commands("run", "--drain").code == 0
    # When it is started with another one
    broker.create_topic(scene.topic)
    other = ["-X", f"bootstrap.servers={broker.bootstrap_servers}"]
    scene.write()
    done = scene.commands("run", *other)
    # Then it ends with the way to allow that, and has sent nothing
    assert done.code == 78
    assert "`outbox-relay relays rebind default`" in done.err
    assert broker.read(scene.topic) == []
    # And once it is allowed, it goes on there
    assert scene.commands("relays", "rebind", "default").code == 0
    assert scene.commands("run", "--drain", *other).code == 0
    assert len(broker.read(scene.topic)) == len(scene.committed())


# Messages and topics that cannot work


@pytest.mark.parametrize(
    "padding",
    [
        pytest.param(5_000, id="seen-before-sending"),
        pytest.param(SMALL - 20, id="seen-by-the-broker-alone"),
    ],
)
def test_a_message_too_large_for_its_topic_stops_its_key_alone_until_the_topic_takes_it(
    scene_with: MakeScene, kafka: KafkaServer, padding: int
) -> None:
    # Given a message among others that its topic does not take
    scene = scene_with(kafka.create_topic(max_message_bytes=str(SMALL), partitions=2))
    scene.write(each=500)
    scene.write(padding=padding)
    scene.write(each=500)
    # When a relay drains the log, then it says what is the matter, and that not all has gone
    done = scene.commands("run", "--drain")
    assert done.code == 6, done.err
    assert scene.topic in done.err
    assert "too large" in done.err
    # And only keys of which there was such a message are stopped, in order
    assert scene.verdict().reordered == 0
    stopped = scene.query("select distinct key from outbox_held where state = 'retrying'")
    blocked = scene.query("select distinct key from outbox_held where state = 'blocked'")
    assert stopped
    assert set(blocked) <= set(stopped)
    # And when the topic takes it, a relay that runs sends everything, in order
    relay = scene.holder()
    configure(kafka, scene.topic, "max.message.bytes", "1048588")
    wait_until(
        lambda: not scene.query("select from outbox_held limit 1"), what="what is held to go"
    )
    scene.wait_until_delivered()
    findings = scene.verdict()
    assert findings.faults == 0, (findings, relay.lines)
    # And a drain has nothing to complain of
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0, "".join(relay.lines[-12:])
    assert scene.commands("run", "--drain").code == 0


def test_a_compacted_topic_takes_no_message_without_a_key_and_all_others(
    scene_with: MakeScene, kafka: KafkaServer
) -> None:
    scene = scene_with(kafka.create_topic(cleanup_policy="compact"))
    scene.write(each=100)
    scene.query(
        "insert into outbox_message (topic, payload) values (%(topic)s, 'x')", topic=scene.topic
    )
    done = scene.commands("run", "--drain")
    assert done.code == 6, done.err
    assert "has no key" in done.err
    ((state, blocks),) = scene.query("select state, blocks from outbox_held")
    assert (state, blocks) == ("retrying", False)
    assert scene.verdict().reordered == 0


def test_many_small_messages_fit_a_topic_that_takes_small_batches_only(
    scene_with: MakeScene, kafka: KafkaServer
) -> None:
    # Given a backlog for a topic whose limit is far below the usual size of a batch
    scene = scene_with(kafka.create_topic(max_message_bytes=str(SMALL), partitions=2))
    scene.write(each=2_000)
    # When it is relayed, then no batch is refused
    done = scene.commands("run", "--drain")
    assert (done.code, done.err.count("warning")) == (0, 0), done.err
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings


def test_a_topic_with_small_batches_that_is_met_later_costs_nothing(scene: Scene) -> None:
    # Given a relay that sends large batches to one topic
    kafka, first = scene.kafka, scene.topic
    relay = scene.holder()
    with scene.flow():
        scene.wait_until_delivered()
        # When messages for a topic come that takes small batches only
        small = kafka.create_topic(max_message_bytes=str(SMALL))
        scene.query(
            """insert into outbox_message (topic, key, payload)
               select %(topic)s, 'k', convert_to(i::text, 'UTF8')
                 from generate_series(1, 1000) as i order by i""",
            topic=small,
        )
        scene.wait_until_delivered()
    # Then both topics have everything, in order, and nothing twice
    scene.wait_until_delivered()
    values = [int(message.value() or b"0") for message in kafka.read(small)]
    assert values == list(range(1, 1001))
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert (scene.topic, warnings(relay)) == (first, [])


def test_an_unknown_topic_stops_no_other_and_goes_on_when_it_is_made(
    scene_with: MakeScene, kafka: KafkaServer
) -> None:
    # Given messages for a topic that does not exist, and for one that does
    scene = scene_with(f"late-{secrets.token_hex(6)}")
    other = kafka.create_topic()
    scene.write(each=100)
    for_other = "insert into outbox_message (topic, key, payload) values (%(topic)s, 'k', 'x')"
    scene.query(for_other, topic=other)
    # When a relay meets them
    relay = scene.relay("--lease", "2")
    wait_until(lambda: kafka.read(other), what="the other topic's message")
    # Then it has said so once, and what to do
    (warning,) = warnings(relay)
    assert scene.topic in warning
    assert "create the topic" in warning
    assert "held" in warning
    # And goes on once there is one, in order, with what came meanwhile
    scene.write(each=10)
    kafka.create_topic(scene.topic)
    relay.says("is there again", timeout=40)
    wait_until(
        lambda: not scene.query("select from outbox_held limit 1"), what="what is held to go"
    )
    scene.wait_until_delivered()
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert sum(HOLDS in line for line in relay.lines) == 1, relay.lines
    # And can be stopped as always
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0, "".join(relay.lines[-12:])
