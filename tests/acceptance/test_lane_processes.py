"""Relay processes that share the lanes of a log, while they die, freeze, and lanes change."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from outbox.relay.settings import RelaySettings
from outbox.store.lanes import Lane
from tests.acceptance.lane_scene import LaneScene, freeze
from tests.acceptance.relay_process import warnings
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.acceptance.command import Running
    from tests.acceptance.relay_process import Scene

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

LONG = "60"  # a lease, in seconds, that no test can wait for
SHORT = "2"
AT_ONCE = 15.0  # seconds: far below the long lease, far above what it takes

URGENT, BULK = Lane("urgent", priority=10), Lane("bulk", priority=-10)


def default(shards: int) -> Lane:
    return Lane("default", shards=shards)


def complaints(running: Running) -> list[str]:
    """Return the warnings of a relay, but for those of messages that name a lane too early."""
    return [line for line in warnings(running) if "is not declared" not in line]


@pytest.fixture
def lanes(scene: Scene) -> LaneScene:
    return LaneScene.of(scene)


class Crew:
    """Three relay processes; whoever ends is replaced. `rough`: how often one ended roughly."""

    def __init__(self, scene: LaneScene, seed: int, *arguments: str) -> None:
        self.scene = scene
        self.rng = random.Random(seed)
        self.arguments = ("--lease", SHORT, *arguments)
        self.running = [scene.relay(*self.arguments) for _ in range(3)]
        self.rough = 0

    def _one(self) -> int:
        """Return the place of one that holds something, once there is one."""
        return self.rng.choice(wait_until(self._busy, what="one to hold something"))

    def _busy(self) -> list[int]:
        busy = set(self.scene.holders().values())
        return [n for n, each in enumerate(self.running) if each.process.pid in busy]

    def kill(self) -> None:
        place = self._one()
        self.running[place].signal(signal.SIGKILL)
        self.running[place].process.wait()
        self.running[place] = self.scene.relay(*self.arguments)
        self.rough += 1

    def stop(self) -> None:
        place = self._one()
        self.running[place].signal(signal.SIGTERM)
        assert self.running[place].wait() == 0
        self.running[place] = self.scene.relay(*self.arguments)

    def freeze_beyond_the_lease(self) -> None:
        frozen = self.running[self._one()]
        had = {name for name, pid in self.scene.holders().items() if pid == frozen.process.pid}
        freeze(frozen)
        wait_until(
            lambda: (
                frozen.process.pid not in self.scene.holders().values()
                and had & self.scene.streams() <= self.scene.holders().keys()
            ),
            what="others to have what the frozen one had",
        )
        frozen.signal(signal.SIGCONT)
        self.rough += 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whatever_befalls_processes_that_share_lanes_nothing_is_lost_and_no_key_is_out_of_order(
    lanes: LaneScene, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given three processes that share five streams, and eight writers
    lanes.lanes(default(4), URGENT)
    crew = Crew(lanes, seed=7)
    lanes.wait_until_shared(*crew.running)
    changes: list[Callable[[], None]] = [
        lambda: lanes.lanes(default(2), URGENT),
        lambda: lanes.lanes(default(2), URGENT, BULK),
        lambda: lanes.lanes(default(3), URGENT, BULK),
        lambda: lanes.lanes(default(3), URGENT),
    ]
    events = [crew.kill, crew.freeze_beyond_the_lease, crew.stop, crew.kill, crew.kill, crew.stop]
    with lanes.writers():
        # When they are killed, frozen and stopped, and the lanes change, one amid the other
        for number, change in enumerate(changes * 2):
            change()
            crew.rng.choice(events)()
            if number % 2:  # every other change comes before the one before it has ended
                lanes.wait_until_delivered(timeout=90.0)
        for event in events:
            event()
    lanes.wait_until_delivered(timeout=90.0)
    lanes.wait_for_change(default(3), URGENT)
    # Then every message is there, in the order of its key, and what is there twice is so because
    # of a process that ended roughly
    findings = lanes.verdict()
    assert findings.faults == 0, findings
    assert findings.repeats <= crew.rough * RelaySettings().in_flight_messages * 5, findings
    with capsys.disabled():
        print(f"\n{crew.rough} processes were killed or frozen: {findings}")


@pytest.mark.slow
def test_exactly_once_each_message_is_seen_once_whatever_befalls_processes_that_share_lanes(
    lanes: LaneScene, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given three processes that publish exactly once
    lanes.lanes(default(3), URGENT)
    crew = Crew(lanes, 11, "--delivery", "exactly-once")
    lanes.wait_until_shared(*crew.running)
    with lanes.writers(4):
        # When they are killed and frozen, and the lanes change
        crew.kill()
        lanes.lanes(default(2), URGENT)
        crew.freeze_beyond_the_lease()
        lanes.lanes(default(2), URGENT, BULK)
        crew.kill()
        crew.stop()
        lanes.lanes(default(3), BULK)
        crew.kill()
    lanes.wait_until_delivered(timeout=90.0)
    # Then whoever reads what is committed sees each message once, in the order of its key
    findings = lanes.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    with capsys.disabled():
        print(f"\n{crew.rough} exactly-once processes were killed or frozen: {findings}")


def test_a_newcomer_gets_its_share_and_what_a_leaver_had_is_taken_over_at_once(
    lanes: LaneScene,
) -> None:
    # Given a process with five streams
    lanes.lanes(default(4), URGENT)
    first = lanes.relay("--lease", LONG)
    lanes.wait_until_shared(first)
    with lanes.writers(2):
        # When another one comes, then it gets its share
        second = lanes.seen(lanes.relay("--lease", LONG))
        lanes.wait_until_shared(first, second, timeout=AT_ONCE)
        # And when one is told to stop, the other has everything at once
        first.signal(signal.SIGTERM)
        assert first.wait(AT_ONCE) == 0
        lanes.wait_until_shared(second, timeout=AT_ONCE)
    lanes.wait_until_delivered()
    # Then nothing was repeated, and there was nothing to complain of
    findings = lanes.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert complaints(first) == complaints(second) == []


def test_what_a_frozen_process_had_is_shared_when_its_leases_have_run_out(
    lanes: LaneScene,
) -> None:
    lanes.lanes(default(4), URGENT)
    frozen, second, third = (lanes.relay("--lease", SHORT) for _ in range(3))
    lanes.wait_until_shared(frozen, second, third)
    with lanes.writers(2):
        freeze(frozen)
        lanes.wait_until_shared(second, third, timeout=float(SHORT) + AT_ONCE)
        # And when it wakes up it gets a share again, and has sent nothing in between but repeats
        frozen.signal(signal.SIGCONT)
        lanes.wait_until_shared(frozen, second, third)
    lanes.wait_until_delivered()
    assert lanes.verdict().faults == 0


def test_a_change_of_lanes_under_way_causes_no_repeats(lanes: LaneScene) -> None:
    # Given two processes that relay what two writers write
    pair = [lanes.relay("--lease", LONG) for _ in range(2)]
    steps = [(default(4),), (default(2), URGENT), (default(3), URGENT, BULK), (default(1),)]
    with lanes.writers(2):
        # When the lanes change, time and again
        for step in steps:
            lanes.lanes(*step)
            lanes.wait_for_change(*step)
    lanes.wait_until_delivered()
    # Then every message was sent once
    findings = lanes.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert [line for each in pair for line in complaints(each)] == []


def test_a_drain_goes_through_changes_of_lanes(lanes: LaneScene) -> None:
    # Given messages written before, between and after changes that no relay has seen
    lanes.write()
    for step in ((default(3), URGENT), (default(2), BULK), (default(1), URGENT)):
        lanes.lanes(*step)
        lanes.write()
    # When a relay drains the log
    drained = lanes.commands("run", "--drain")
    # Then all of it is sent, once, and only the present lanes are left
    assert drained.code == 0, drained.err
    findings = lanes.verdict()
    assert (findings.faults, findings.repeats) == (0, 0), findings
    assert lanes.streams() == {"default", "urgent"}


def test_an_urgent_message_overtakes_the_backlog_of_another_lane(
    lanes: LaneScene, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given a backlog of a lane with a low priority, and a relay that has begun with it
    lanes.lanes(default(1), URGENT, BULK)
    lanes.topic = lanes.kafka.create_topic(partitions=1)
    backlog = 60_000
    lanes.write_keys(["k3"], backlog)
    relay = lanes.relay()
    wait_until(lambda: lanes.holders().get("bulk"), what="the relay to have the lane")
    wait_until(
        lambda: lanes.query("select from outbox_cursor where lane = 'bulk' and plan_no > 0"),
        what="the backlog to be begun",
    )
    # When a message of the urgent lane is written
    lanes.write_keys(["k5"], 1)
    lanes.wait_until_delivered()
    # Then it comes before the greatest part of the backlog, most of which was not yet in flight
    keys = [occurrence.key for occurrence in lanes.topic_now()]
    assert relay.process.poll() is None
    assert len(keys) == backlog + 1
    place = keys.index("k5")
    with capsys.disabled():
        print(f"\nthe urgent message came after {place} of {backlog} others")
    assert place < backlog - RelaySettings().in_flight_messages


def test_a_relay_name_that_is_down_stops_no_other_when_lanes_change(lanes: LaneScene) -> None:
    # Given two relay names, of which one has no process
    lanes.topic = lanes.kafka.create_topic(partitions=1)
    assert lanes.commands("relays", "create", "audit", "--from", "earliest").code == 0
    lanes.write(each=5)
    # When the lanes change twice while only the other one is at work
    relay = lanes.relay()
    for step in ((default(3), URGENT), (default(2), BULK)):
        lanes.lanes(*step)
        lanes.write(each=5)
        lanes.wait_for_change(*step)
    lanes.wait_until_delivered()
    # Then that one has delivered everything
    first = lanes.topic_now()
    committed = sum(lanes.committed().values())
    assert len(first) == committed
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    # And the other one goes through all of it when it comes, in the order of each key
    audit: Running = lanes.relay("--name", "audit")
    wait_until(
        lambda: lanes.streams("audit") == {"default:0", "default:1", "bulk"},
        what="the relay name that was down to come to the present lanes",
    )
    wait_until(lambda: len(lanes.topic_now()) >= 2 * committed, what="everything a second time")
    audit.signal(signal.SIGTERM)
    assert audit.wait() == 0
    second = lanes.topic_now()[committed:]
    assert sorted(second) == sorted(first)
    for key in lanes.committed():
        numbers = [each.number for each in second if each.key == key]
        assert numbers == sorted(numbers)
