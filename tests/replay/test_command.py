"""`outbox-relay replay` as its users call it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import PROGRAM, Commands, environment
from tests.verify.world import World
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka]


@pytest.fixture
def commands(sqlite_world: World, tmp_path: Path) -> Commands:
    commands = Commands(tmp_path, f"sqlite:///{sqlite_world.kit.url.path}")
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = sqlite_world.kafka.bootstrap_servers
    return commands


def _audit(world: World) -> list[Any]:
    rows = world.kit.writer().execute(
        "select command, messages, json_extract(what, '$.ended_at') from outbox_audit order by id"
    )
    return list(rows)


def test_it_counts_asks_sends_and_notes_it(sqlite_world: World, commands: Commands) -> None:
    sqlite_world.write("a", "b", "a")
    sqlite_world.send()

    # When it only counts, nothing is sent
    counted = commands("replay", "--key", "a", "--dry-run")
    assert counted.code == 0, counted.err
    assert counted.out.split() == ["TOPIC", "MESSAGES", sqlite_world.topic, "2"]
    assert "2 messages would be sent again" in counted.err
    assert len(sqlite_world.kafka.read(sqlite_world.topic)) == 3
    assert _audit(sqlite_world) == []

    # When nobody can be asked, nothing is sent either
    unasked = commands("replay", "--key", "a")
    assert (unasked.code, "give --yes" in unasked.err) == (2, True)
    assert len(sqlite_world.kafka.read(sqlite_world.topic)) == 3

    # When it is told to, it sends
    done = commands("replay", "--key", "a", "--yes", "--json")
    assert done.code == 0, done.err
    assert (done.json["schema"], done.json["sent"], done.json["resume"]) == (
        "outbox.replay/1",
        2,
        None,
    )
    assert len(sqlite_world.kafka.read(sqlite_world.topic)) == 5
    begun, ended = _audit(sqlite_world)
    assert begun == ("replay", 2, None)
    assert ended == ("replay", 2, f"{done.json['run']}:3")


@pytest.mark.parametrize(("answer", "records"), [("n\n", 1), ("y\n", 2)])
def test_who_says_no_sends_nothing(
    sqlite_world: World, commands: Commands, answer: str, records: int
) -> None:
    sqlite_world.write("a")
    sqlite_world.send()
    ours, theirs = pty.openpty()

    process = subprocess.Popen(
        [*PROGRAM, "replay", "--key", "a"],
        cwd=commands.directory,
        env=environment(**commands.variables),
        stdin=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, answer.encode())
    _, said = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)

    assert f"1 message of relay default, with the ids they had, to {sqlite_world.topic} (1)" in said
    assert process.returncode == (0 if answer == "y\n" else 1), said
    assert len(sqlite_world.kafka.read(sqlite_world.topic)) == records


def test_killed_in_the_midst_it_can_be_resumed(sqlite_world: World, commands: Commands) -> None:
    # Given a replay that is killed while the broker does not take its messages
    sqlite_world.write("a", "b")
    sqlite_world.send()
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = "127.0.0.1:1"
    with commands.start("replay", "--key", "a", "--key", "b", "--yes") as running:
        wait_until(lambda: _audit(sqlite_world), what="the beginning in the audit")
        running.signal(signal.SIGKILL)
        running.wait()

    # Then the audit tells that it began
    assert _audit(sqlite_world) == [("replay", 2, None)]

    # And one that gives up tells how to go on
    gone = commands("replay", "--key", "a", "--key", "b", "--yes", "--connect-timeout", "0.5")
    assert gone.code == 4
    assert "0 messages were sent; go on with the same options and --resume" in gone.err
    token = gone.err.split("--resume ")[-1].strip()
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = sqlite_world.kafka.bootstrap_servers
    done = commands("replay", "--key", "a", "--key", "b", "--yes", "--resume", token, "--json")
    assert (done.code, done.json["sent"]) == (0, 2), done.err
    assert done.json["run"] == token.partition(":")[0]
    # Of one that has sent all nothing is left
    assert commands(
        "replay", "--key", "a", "--key", "b", "--yes", "--resume", f"{done.json['run']}:2"
    ).err.startswith("relay default has delivered nothing that matches")


def test_bad_input_is_refused_in_its_own_words(sqlite_world: World, commands: Commands) -> None:
    everything = commands("replay", "--yes")
    assert (everything.code, "say which messages" in everything.err) == (2, True)
    broken = commands("replay", "--key", "a", "--resume", "somewhere")
    assert (broken.code, "is not what an interrupted replay gave" in broken.err) == (2, True)
    unknown = commands("replay", "--key", "a", "--name", "nobody", "--yes")
    assert (unknown.code, "no relay called 'nobody'" in unknown.err) == (78, True)
