"""Relay processes that stop, die, freeze and stand in for each other."""

from __future__ import annotations

import signal
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from outbox.relay.settings import RelaySettings
from tests.acceptance.producers import Producers, late_of
from tests.acceptance.relay_process import HOLDS, STANDBY, said_at, wait_until_planned, warnings
from tests.servers.process import process_state
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.acceptance.command import Running
    from tests.acceptance.relay_process import Scene
    from tests.servers.kafka import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

LONG = "60"  # a lease, in seconds, that no test can wait for
SHORT = "2"
AT_ONCE = 10.0  # seconds: far below the long lease, far above what it takes


def test_a_standby_takes_over_at_once_when_the_holder_is_killed(scene: Scene) -> None:
    # Given a holder that is busy, and another process of the same machine on standby
    with scene.flow():
        holder = scene.holder("--lease", LONG)
        standby = scene.relay("--lease", LONG)
        standby.says(STANDBY)
        # When the holder is killed
        holder.signal(signal.SIGKILL)
        # Then the other one does not wait for the lease
        standby.says(HOLDS, timeout=AT_ONCE)
    scene.wait_until_delivered()
    findings = scene.verdict()
    assert findings.faults == 0, findings
    assert findings.rewinds <= 1, findings


def test_a_dead_holder_on_another_machine_is_replaced_after_its_lease_and_not_before(
    scene: Scene,
) -> None:
    # Given a lane held by a process whose end cannot be seen from here
    scene.write()
    ((lease_until,),) = scene.query(
        """update outbox_cursor
              set owner = 'elsewhere pid=7 start=7 in=another-boot/1 #1-abc', epoch = epoch + 1,
                  lease_until = clock_timestamp() + interval '2 s',
                  written_by = pg_current_xact_id()
           returning lease_until"""
    )
    # When a relay wants the lane
    relay = scene.relay()
    relay.says(STANDBY)
    relay.says(HOLDS)
    # Then it had to wait for the lease, and only for that
    late_by = said_at(relay, HOLDS) - lease_until
    assert timedelta(0) <= late_by < timedelta(seconds=1.5)
    scene.wait_until_delivered()
    assert scene.verdict().faults == 0


def test_sigterm_drains_hands_over_at_once_and_causes_no_repeats(scene: Scene) -> None:
    # Given a holder in the middle of a backlog, and another process on standby
    holder = scene.holder("--lease", LONG)
    standby = scene.relay("--lease", LONG)
    standby.says(STANDBY)
    scene.write(each=10_000)
    wait_until_planned(scene)
    # When the holder is told to stop
    holder.signal(signal.SIGTERM)
    # Then it ends well, and the lane is the other's at once
    assert holder.wait(AT_ONCE) == 0
    standby.says(HOLDS, timeout=AT_ONCE)
    # And what it had read was acknowledged and saved: nothing is sent twice, although there was
    # something left to send
    scene.wait_until_delivered()
    ((moved_at,),) = scene.query("select moved_at from outbox_cursor")
    assert said_at(standby, HOLDS) < moved_at
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert warnings(holder) == warnings(standby) == []


def test_of_two_that_start_at_the_same_moment_one_holds_the_lane(scene: Scene) -> None:
    # Given an empty log
    pair = [scene.relay(), scene.relay()]
    # When both are up
    wait_until(lambda: all(each.lines for each in pair), what="both to say what they do")
    # Then one has the lane and the other has not
    assert sorted(_roles(each) for each in pair) == [HOLDS, STANDBY]
    # And what is written now is sent once
    scene.write(each=100)
    scene.wait_until_delivered()
    findings = scene.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert sorted(_roles(each) for each in pair) == [HOLDS, STANDBY]


def _roles(relay: Running) -> str:
    return " ".join(words for line in relay.lines for words in (HOLDS, STANDBY) if words in line)


def test_a_second_sigterm_ends_a_relay_that_waits_for_the_broker(
    fragile: Scene, broker: KafkaCluster
) -> None:
    # Given a relay with messages in flight that the broker does not acknowledge
    relay = fragile.holder()
    broker.pause()
    fragile.write(each=10)
    wait_until_planned(fragile)
    # When it is told to stop, it waits for the acknowledgements
    relay.signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        relay.wait(1.0)
    # And when it is told again, it ends at once
    relay.signal(signal.SIGTERM)
    assert relay.wait(2.0) == 128 + signal.SIGTERM
    # Then nothing is lost
    broker.resume()
    fragile.holder()
    fragile.wait_until_delivered()
    assert fragile.verdict().faults == 0


def test_a_frozen_relay_that_wakes_up_after_its_lease_sends_nothing_but_repeats(
    fragile: Scene, broker: KafkaCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with fragile.flow():
        # Given a relay that is frozen with its queue full
        frozen = fragile.holder("--lease", SHORT)
        fragile.wait_until_delivered()
        old = Producers(broker, fragile.topic).all
        broker.pause()
        fragile.write(each=500)
        wait_until_planned(fragile)
        _wait_for_plans(fragile, 2)  # made after all before them was handed to the producer
        frozen.signal(signal.SIGSTOP)
        wait_until(lambda: process_state(frozen.process.pid)[0] == "T", what="the frozen state")
        broker.resume()
        # And another that took over, although the frozen one lives, and went on
        successor = fragile.holder("--lease", SHORT)
        fragile.wait_until_delivered()
        # When the first one wakes up
        frozen.signal(signal.SIGCONT)
        # Then it sees that its time is over: by its clock, or since the database has closed the
        # connection of one that was frozen in a transaction
        frozen.says(STANDBY)
        fragile.wait_until_delivered()
    fragile.wait_until_delivered()
    # And whatever came from it after the take-over had come before, and not too much of it
    late, new = late_of(broker, fragile.topic, old)
    assert new == 0
    assert late <= RelaySettings().in_flight_messages
    findings = fragile.verdict()
    assert findings.faults == 0, findings
    assert findings.repeats <= RelaySettings().in_flight_messages, findings
    assert sum(HOLDS in line for line in successor.lines) == 1
    with capsys.disabled():
        print(f"\na frozen relay sent {late} messages late; {findings}")


def _wait_for_plans(scene: Scene, count: int) -> None:
    """Wait until there are so many more plans."""
    ((first,),) = scene.query("select max(plan_no) from outbox_plan")
    wait_until(
        lambda: scene.query(
            "select true from outbox_plan where plan_no >= %(plan)s", plan=first + count
        ),
        what=f"{count} more plans",
    )
