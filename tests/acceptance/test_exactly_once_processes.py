"""Relay processes that publish exactly once, and are killed, frozen and replaced."""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.nursery import Nursery
from tests.acceptance.relay_process import HOLDS, STANDBY, wait_until_planned
from tests.servers.process import process_state
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.acceptance.relay_process import Scene

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

EXACTLY = ("--delivery", "exactly-once")
SHORT = ("--lease", "2")

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
            _wait_for_term(scene, number)
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


def _wait_for_term(scene: Scene, epoch: int) -> None:
    wait_until(
        lambda: scene.query("select from outbox_cursor where epoch >= %(epoch)s", epoch=epoch),
        what=f"term {epoch}",
    )


def test_a_zombie_is_fenced_says_so_and_adds_nothing(scene: Scene) -> None:
    with scene.flow():
        # Given a relay that is frozen in the middle of its work
        zombie = scene.holder(*EXACTLY, *SHORT)
        scene.wait_until_delivered()
        scene.write(each=2_000)
        wait_until_planned(scene)
        zombie.signal(signal.SIGSTOP)
        wait_until(lambda: process_state(zombie.process.pid)[0] == "T", what="the frozen state")
        # And another that took over, although the frozen one lives
        successor = scene.holder(*EXACTLY, *SHORT)
        scene.wait_until_delivered()
        # When the first one wakes up
        zombie.signal(signal.SIGCONT)
        # Then it says that its time is over, and waits for its turn
        zombie.says("lost the lane")
        zombie.says(STANDBY)
        scene.wait_until_delivered()
    scene.wait_until_delivered()
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert sum(HOLDS in line for line in successor.lines) == 1


def test_a_relay_that_kafka_fences_says_so_and_goes_on_standby(scene: Scene) -> None:
    # Given a relay that believes it has the lane, while the database gave it to another one
    first = scene.holder(*EXACTLY, "--lease", "60")
    scene.write()
    scene.wait_until_delivered()
    first.signal(signal.SIGSTOP)
    wait_until(lambda: process_state(first.process.pid)[0] == "T", what="the frozen state")
    scene.query(
        "update outbox_cursor set owner = null, lease_until = null,"
        " written_by = pg_current_xact_id()"
    )
    second = scene.holder(*EXACTLY, "--lease", "60")
    # When it goes on
    first.signal(signal.SIGCONT)
    scene.write(each=100)
    # Then it learns, at the latest from Kafka, and does not fight for the lane
    first.says("lost the lane")
    first.says(STANDBY)
    scene.wait_until_delivered()
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert sum(HOLDS in line for line in second.lines) == 1


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
