"""Real relay processes that a message really kills, and others that are killed from outside."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from outbox.database import DatabaseUrl
from outbox.migrations import migrate
from outbox.names import Names
from outbox.store.lanes import Lane
from outbox.store.opening import open_store
from outbox.store.trail import CAREFUL_AFTER, PROVEN_AFTER
from tests.acceptance.command import Commands, environment
from tests.acceptance.relay_process import HOLDS, Scene
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer

pytestmark = pytest.mark.kafka

#: One more dies to tell about where the message is.
ENOUGH = CAREFUL_AFTER + 1 + PROVEN_AFTER


def restarted(commands: Commands, *arguments: str, deadly: str, how: str) -> list[int]:
    """Start a drain again and again, as a supervisor would, until it ends by itself.

    Returns how each of the processes ended.
    """
    codes: list[int] = []
    while not codes or codes[-1] < 0:
        assert len(codes) < 3 * ENOUGH, codes
        done = subprocess.run(
            [sys.executable, "-m", "tests.acceptance.deadly_relay", "run", "--drain", *arguments],
            cwd=commands.directory,
            env=environment(**commands.variables, DEADLY_MESSAGES=deadly, DEADLY_HOW=how),
            capture_output=True,
            text=True,
            timeout=60,
        )
        codes.append(done.returncode)
    return codes


def numbers(scene: Scene) -> dict[str, list[int]]:
    """Return the numbers in the topic, by key, each where it came first."""
    found: dict[str, dict[int, None]] = {}
    for one in scene.topic_now():
        found.setdefault(one.key, {})[one.number] = None
    return {key: list(seen) for key, seen in found.items()}


@pytest.mark.postgresql
@pytest.mark.parametrize(
    ("delivery", "how", "shards"),
    [("exactly-once", "abort", 1), ("at-least-once", "late", 2)],
)
def test_a_message_that_kills_the_relay_is_held_and_the_others_go(
    scene: Scene, delivery: str, how: str, shards: int
) -> None:
    # Given messages of seven keys, one of which no relay survives
    if shards > 1:
        with closing(open_store(DatabaseUrl.parse(scene.url), Names())) as store:
            store.connect()
            store.change_lanes([Lane("default", shards=shards)])
    scene.write(each=30)
    # When relays are started until one of them lives
    codes = restarted(scene.commands, "--delivery", delivery, deadly="k3:10", how=how)
    # Then a few have died of it, and the last one says that something is held
    assert codes[-1] == 6
    assert ENOUGH <= len(codes) - 1 <= ENOUGH + 2
    # and all others are there, in the order of their keys; of its key, what comes before it
    whole = list(range(1, 31))
    expected = {f"k{key}": whole for key in range(1, 8)} | {"k3": whole[:9]}
    held = scene.query(
        "select convert_from(payload, 'UTF8'), key, state from outbox_held order by seq"
    )
    assert [row[1:] for row in held] == [("k3", "dead"), *[("k3", "blocked")] * 20]
    if how == "abort":
        assert numbers(scene) == expected
    else:
        # It may have been at the broker by the time that it killed its relay
        got = numbers(scene)
        assert {**got, "k3": [n for n in got["k3"] if n != 10]} == expected
    # and once the encoder is mended the rest follows, in order
    done = scene.commands("held", "requeue", "--state", "dead", "--all-matching", "--yes")
    assert done.code == 0, done.err
    assert scene.commands("run", "--drain", "--delivery", delivery).code in (0, 6)
    wait_until(
        lambda: scene.commands("run", "--drain", "--delivery", delivery).code == 0,
        what="the delivery of what was held",
        timeout=90.0,
    )
    assert numbers(scene) == {f"k{key}": whole for key in range(1, 8)}


def test_also_on_sqlite(kafka: KafkaServer, tmp_path: Path) -> None:
    # Given a log in a file, with a message that no relay survives
    url = f"sqlite:///{tmp_path}/log.db"
    migrate(url)
    topic = kafka.create_topic()
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection, connection:
        connection.executemany(
            "insert into outbox_message (topic, key, payload) values (?, ?, ?)",
            [(topic, f"k{n % 3}", str(n).encode()) for n in range(12)],
        )
    commands = Commands(tmp_path, url)
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = kafka.bootstrap_servers
    # When relays are started until one of them lives
    codes = restarted(commands, deadly="k1:4", how="abort")
    # Then it is held, and an operator is told why
    assert (codes[-1], len(codes)) == (6, ENOUGH + 1)
    listed = commands("held", "list", "--json").json
    assert [one["state"] for one in listed["messages"]] == ["dead", "blocked", "blocked"]
    shown = commands("held", "show", listed["messages"][0]["id"])
    assert f"killed the relay {PROVEN_AFTER} times" in shown.out
    sent: dict[bytes, dict[int, None]] = {}
    for message in kafka.read(topic):
        sent.setdefault(message.key() or b"", {})[int(message.value() or b"")] = None
    assert {key: list(numbers) for key, numbers in sent.items()} == {
        b"k0": [0, 3, 6, 9],
        b"k1": [1],
        b"k2": [2, 5, 8, 11],
    }


@pytest.mark.postgresql
def test_relays_that_are_killed_at_any_time_hold_nothing(scene: Scene) -> None:
    # Given a backlog, and relays that are killed from outside at random: some before they have
    # sent anything, some in the middle
    draw = random.Random(7)
    for _ in range(10):
        scene.write(each=100)
        relay = scene.relay()
        relay.says(HOLDS)
        with pytest.raises(subprocess.TimeoutExpired):
            relay.wait(draw.choice([0.001, 0.02, 0.1, draw.uniform(0, 0.6)]))
        relay.process.kill()
        relay.wait()
    # When one is left alone
    with scene.relay():
        scene.wait_until_delivered()
    # Then nothing is held, and nothing is lost or out of order
    assert scene.query("select * from outbox_held") == []
    findings = scene.verdict()
    assert (findings.lost, findings.reordered, findings.phantoms) == (0, 0, 0)
