"""A relay process outlives its servers: it waits, says so once, and goes on with nothing lost."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.relay_process import wait_until_planned, warnings
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.acceptance.command import Running
    from tests.acceptance.relay_process import Scene
    from tests.servers.kafka import KafkaCluster
    from tests.servers.postgresql import PrivatePostgreSQL

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]


def test_it_starts_without_a_broker_and_goes_on_when_there_is_one(
    fragile: Scene, broker: KafkaCluster
) -> None:
    # Given messages and no broker
    fragile.write(each=100)
    broker.stop()
    # When a relay starts
    relay = fragile.relay("--lease", "2")
    relay.says("Kafka cannot be reached")
    _let_it_try_again(fragile)
    # Then it has said so once, and goes on when there is one
    (warning,) = warnings(relay)
    assert warning.rstrip().endswith("; waiting")
    broker.start()
    relay.says("going on")
    _nothing_is_lost(fragile, relay, repeats=0)


def test_it_starts_without_a_database_and_goes_on_when_there_is_one(
    fragile: Scene, database: PrivatePostgreSQL
) -> None:
    # Given messages and a database that is away
    fragile.write(each=100)
    database.stop()
    # When a relay starts
    relay = fragile.relay()
    relay.says("cannot connect to")
    # Then it has said so once, and goes on when the database is there
    database.start()
    fragile.wait_until_delivered()
    (warning,) = warnings(relay)
    assert warning.rstrip().endswith("; waiting")
    _nothing_is_lost(fragile, relay, repeats=0)


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_outlives_the_broker(fragile: Scene, broker: KafkaCluster, end: str) -> None:
    # Given a relay that is busy
    relay = _busy(fragile)
    with fragile.flow():
        # When the broker goes away under it, and messages are in flight
        getattr(broker, end)()
        relay.says("waiting")
        # And comes back
        broker.start()
        relay.says("going on")
        fragile.wait_until_delivered()
    # Then the relay has said so once, and nothing is lost
    assert len(warnings(relay)) == 1, relay.lines
    assert sum("going on" in line for line in relay.lines) == 1, relay.lines
    _nothing_is_lost(fragile, relay)


def test_a_broker_that_goes_away_before_the_first_message_costs_nothing(
    fragile: Scene, broker: KafkaCluster
) -> None:
    # Given a relay that has not sent anything yet, and a broker that is gone
    relay = fragile.holder("--lease", "2")
    broker.kill()
    # When the first messages come, then the relay waits for the broker
    fragile.write(each=100)
    relay.says("; waiting")
    broker.start()
    _nothing_is_lost(fragile, relay)


def test_what_the_broker_never_acknowledged_is_sent_by_the_successor_of_a_killed_relay(
    fragile: Scene, broker: KafkaCluster
) -> None:
    # Given a relay that has handed messages to its producer, and a broker that is gone
    relay = _busy(fragile, "--lease", "2")
    broker.kill()
    fragile.write(each=10)
    # And that has saved its position since, more than once
    for _ in range(2):
        _wait_for_a_save(fragile)
    # When it is killed, and both come back
    relay.signal(signal.SIGKILL)
    relay.wait()
    broker.start()
    successor = fragile.holder()
    # Then everything arrives
    _nothing_is_lost(fragile, successor, repeats=0)


def _wait_for_a_save(scene: Scene) -> None:
    """Wait until what was committed before is sent, and the position saved after that."""
    wait_until_planned(scene)
    before = scene.query("select lease_until from outbox_cursor")
    wait_until(
        lambda: scene.query("select lease_until from outbox_cursor") != before,
        what="the relay to save its position",
    )


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_it_outlives_the_database(fragile: Scene, database: PrivatePostgreSQL, end: str) -> None:
    # Given a relay that is busy
    relay = _busy(fragile)
    with fragile.flow():
        # When the database goes away under it and comes back
        getattr(database, end)()
        relay.says("waiting")
        database.start()
        relay.says("going on")
        fragile.wait_until_delivered()
    # Then the relay has said so once, and nothing is lost
    assert len(warnings(relay)) == 1, relay.lines
    _nothing_is_lost(fragile, relay)


@pytest.mark.parametrize("server", ["broker", "database"])
def test_each_outage_is_said_also_when_no_message_came_in_between(
    fragile: Scene, broker: KafkaCluster, database: PrivatePostgreSQL, server: str
) -> None:
    # Given a relay that has lived through an outage
    relay = _busy(fragile)
    _cut_off(fragile, relay, broker if server == "broker" else database, times=1)
    # When another one comes
    _cut_off(fragile, relay, broker if server == "broker" else database, times=2)
    # Then that was said too
    assert len(warnings(relay)) == 2, relay.lines
    _nothing_is_lost(fragile, relay)


def _busy(scene: Scene, *arguments: str) -> Running:
    """Start a relay and let it deliver something."""
    relay = scene.holder(*arguments)
    scene.write()
    scene.wait_until_delivered()
    return relay


def _cut_off(
    scene: Scene, relay: Running, server: KafkaCluster | PrivatePostgreSQL, times: int
) -> None:
    """Take a server away, wait until the relay minds, and bring it back."""
    server.stop()
    if not hasattr(server, "version"):
        scene.write()  # without a message there is nothing to miss a broker for
    wait_until(lambda: len(warnings(relay)) == times, what=f"warning {times} in {relay.lines}")
    server.start()
    wait_until(
        lambda: sum("going on" in line for line in relay.lines) == times,
        what=f"end of outage {times} in {relay.lines}",
    )


def _let_it_try_again(scene: Scene) -> None:
    """Wait until the relay has taken the lane a few times, as it does for every attempt."""
    wait_until(
        lambda: scene.query("select from outbox_cursor where epoch >= 3"),
        what="several attempts to reach the broker",
    )


def _nothing_is_lost(scene: Scene, relay: Running, repeats: int | None = None) -> None:
    scene.wait_until_delivered()
    findings = scene.verdict()
    assert findings.faults == 0, findings
    assert repeats in (None, findings.repeats), findings
    assert findings.rewinds <= _terms(scene), findings
    assert relay.process.poll() is None, relay.lines


def _terms(scene: Scene) -> int:
    ((epoch,),) = scene.query("select epoch from outbox_cursor")
    return int(epoch)
