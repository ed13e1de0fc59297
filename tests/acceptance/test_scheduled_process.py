"""Relay processes that die while they send what was scheduled."""

from __future__ import annotations

import signal

import psycopg
import pytest

from tests.acceptance.relay_process import Scene
from tests.servers.kafka import KafkaCluster
from tests.waiting import wait_until

pytestmark = [pytest.mark.postgresql, pytest.mark.kafka]

_SCHEDULE = """
    with drawn as (update counter set number = number + %(each)s returning key, number)
    insert into outbox_scheduled (topic, key, payload, due_at)
    select %(topic)s, key, convert_to((number - %(each)s + i)::text, 'UTF8'),
           now() + make_interval(secs => %(after)s)
      from drawn, generate_series(1, %(each)s) as i order by i, key"""


def schedule(scene: Scene, each: int, after: float = 0.0) -> None:
    """Schedule the next `each` messages of every key."""
    with psycopg.connect(scene.url) as connection:
        values = {"each": each, "topic": scene.topic, "after": after}
        connection.execute(_SCHEDULE, values)


def test_a_relay_killed_between_moving_and_publishing_loses_nothing(
    fragile: Scene, broker: KafkaCluster
) -> None:
    # Given a relay that has moved messages into the log, and cannot publish them
    relay = fragile.holder()
    broker.pause()
    schedule(fragile, each=100)
    wait_until(lambda: fragile.query("select from outbox_message limit 1"), what="a move")
    # When it is killed, and another one goes on
    relay.signal(signal.SIGKILL)
    relay.wait(10.0)
    broker.resume()
    fragile.holder()
    # Then all of them arrive, in order
    fragile.wait_until_delivered()
    findings = fragile.verdict()
    assert findings.faults == 0, findings


def test_relays_killed_while_they_move_lose_nothing_and_move_nothing_twice(fragile: Scene) -> None:
    # Given messages that are due, and relays of which each is killed in the midst of them
    schedule(fragile, each=1500)
    for _ in range(3):
        (before,) = fragile.query("select count(*) from outbox_message")
        relay = fragile.holder()
        wait_until(
            lambda before=before: fragile.query("select count(*) from outbox_message") > [before],
            what="a move",
        )
        relay.signal(signal.SIGKILL)
        relay.wait(10.0)
    # When one is left alone, then each message is in the log once, and all arrive in order
    fragile.holder()
    wait_until(
        lambda: not fragile.query("select from outbox_scheduled limit 1"),
        what="the schedule to end",
    )
    fragile.wait_until_delivered()
    ((rows, messages),) = fragile.query("select count(*), count(distinct id) from outbox_message")
    assert rows == messages == 1500 * len(fragile.committed())
    findings = fragile.verdict()
    assert findings.faults == 0, findings
