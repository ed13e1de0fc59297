"""Relay processes that publish exactly once, and are killed, frozen and replaced."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.acceptance.nursery import Nursery
from tests.acceptance.relay_process import HOLDS, STANDBY, wait_until_planned
from tests.servers.process import process_state
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.acceptance.command import Running
    from tests.acceptance.relay_process import Scene
    from tests.servers.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

EXACTLY = ("--delivery", "exactly-once")
SHORT, LONG = ("--lease", "2"), ("--lease", "60")

#: More take longer: `OUTBOX_TEST_KILLS=50` takes about a minute.
KILLS = int(os.environ.get("OUTBOX_TEST_KILLS", "10"))
LIFE_S = 0.4  # at the most, from when a relay holds the lane


def test_each_message_is_seen_once_however_often_the_relay_is_killed(
    scene: Scene, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a backlog, a flow of messages, and relays that are killed at any moment
    scene.write(each=200)
    chance, pause = random.Random(7), threading.Event()
    with scene.flow(), Nursery(scene.commands) as nursery:
        for number in range(1, KILLS + 1):
            pid = nursery.start(*EXACTLY)
            _wait_until_relaying(scene, number)
            with _unsaved(scene) if number % 2 else nullcontext():
                pause.wait(chance.uniform(0, LIFE_S))
                nursery.kill(pid)
    # When one lives
    scene.holder(*EXACTLY)
    scene.wait_until_delivered()
    # Then whoever reads what is committed sees each message once, in the order of its key
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    with capsys.disabled():
        print(f"\n{KILLS} kills of an exactly-once relay; {findings}")


@contextmanager
def _unsaved(scene: Scene) -> Iterator[None]:
    """Keep the relay from saving what it commits in Kafka meanwhile."""
    with psycopg.connect(scene.url) as connection:
        connection.execute("select from outbox_cursor for update")
        yield
        # The server would finish for a process that is gone what it waits for.
        pid = connection.info.backend_pid
        waiting = "from pg_stat_activity where %(pid)s = any(pg_blocking_pids(pid))"
        wait_until(
            lambda: not scene.query(f"select pg_terminate_backend(pid) {waiting}", pid=pid),
            what="the end of the save",
        )


def _wait_until_relaying(scene: Scene, term: int) -> None:
    wait_until(
        lambda: scene.query(
            """select from outbox_cursor as c join outbox_process as p on p.process = c.owner
                where c.epoch >= %(term)s and p.state = 'relaying'""",
            term=term,
        ),
        what=f"term {term}",
    )


def test_a_zombie_is_fenced_says_so_and_adds_nothing(fragile: Scene, broker: KafkaCluster) -> None:
    with fragile.flow():
        # Given a relay that is frozen while a transaction of its own ends
        zombie = fragile.holder(*EXACTLY, *SHORT)
        _freeze_in_a_commit(fragile, broker, zombie)
        # And another that took over, although the frozen one lives
        successor = fragile.holder(*EXACTLY, *SHORT)
        fragile.wait_until_delivered()
        # When the first one wakes up
        zombie.signal(signal.SIGCONT)
        # Then it says that its time is over, and waits for its turn
        zombie.says(STANDBY)
    fragile.wait_until_delivered()
    findings = fragile.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert sum(HOLDS in line for line in successor.lines) == 1


def test_a_relay_that_kafka_fences_says_so_and_goes_on_standby(
    fragile: Scene, broker: KafkaCluster
) -> None:
    # Given a frozen relay whose lease still lasts by its own clock, although another has the lane
    first = fragile.holder(*EXACTLY, *LONG)
    _freeze_in_a_commit(fragile, broker, first)
    fragile.query(
        "update outbox_cursor set owner = null, lease_until = null,"
        " written_by = pg_current_xact_id()"
    )
    second = fragile.holder(*EXACTLY, *LONG)
    fragile.wait_until_delivered()
    # When it goes on
    first.signal(signal.SIGCONT)
    # Then it learns it from Kafka, and does not fight for the lane
    first.says("Kafka takes nothing more from this process")
    first.says("lost the lane")
    first.says(STANDBY)
    fragile.write()
    fragile.wait_until_delivered()
    findings = fragile.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert sum(HOLDS in line for line in second.lines) == 1


def _freeze_in_a_commit(scene: Scene, broker: KafkaCluster, relay: Running) -> None:
    scene.write()
    scene.wait_until_delivered()
    broker.pause()
    scene.write(each=500)
    wait_until_planned(scene)
    relay.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(relay.process.pid)[0] == "T", what="the frozen state")
    broker.resume()


def test_the_next_relay_goes_on_at_least_once_where_a_killed_one_was_and_the_other_way_round(
    scene: Scene,
) -> None:
    # Given a relay that publishes exactly once and is killed in the middle of a backlog
    with scene.flow(), Nursery(scene.commands) as nursery:
        scene.write(each=1_000)
        pid = nursery.start(*EXACTLY)
        wait_until(scene.topic_now, what="the first messages")
        nursery.kill(pid)
        # When the next one publishes at least once, ends in order, and the next exactly once
        second = scene.holder()
        scene.wait_until_delivered()
        second.signal(signal.SIGTERM)
        assert second.wait() == 0
        scene.holder(*EXACTLY)
    scene.wait_until_delivered()
    # Then nothing is lost or repeated
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
