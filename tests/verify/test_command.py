"""`outbox-relay verify` as its users call it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command import Commands
from tests.verify.world import World

pytestmark = [pytest.mark.kafka]


@pytest.fixture
def commands(sqlite_world: World, tmp_path: Path) -> Commands:
    commands = Commands(tmp_path, f"sqlite:///{sqlite_world.kit.url.path}")
    commands.variables["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = sqlite_world.kafka.bootstrap_servers
    return commands


def test_all_is_well(sqlite_world: World, commands: Commands) -> None:
    empty = commands("verify")
    assert (empty.code, empty.err) == (0, "the log has no messages that are to be compared\n")

    sqlite_world.write("a", "b")
    sqlite_world.send(lambda parcels: [*parcels, *parcels])
    sqlite_world.write("c")

    done = commands("verify")
    assert done.code == 0, done.err
    header, row = done.out.splitlines()
    assert header.split()[:4] == ["TOPIC", "DELIVERED", "FOUND", "MISSING"]
    assert row.split() == [sqlite_world.topic, "2", "2", *"00000", "2"]
    assert "1 not delivered yet, 2 sent again after an interruption" in done.err
    assert "nothing is missing" in done.err

    # And who wants to hear of repetitions can
    strict = commands("verify", "--strict", "--json", "--since", "1h")
    assert strict.code == 6
    assert strict.json["schema"] == "outbox.verify/1"
    assert (strict.json["ok"], strict.json["topics"][0]["resent"]) == (False, 2)


def test_what_is_wrong_is_named(sqlite_world: World, commands: Commands) -> None:
    sqlite_world.write("a", "b")
    lost = sqlite_world.send(lambda _: [])
    assert lost == []

    done = commands("verify", "--limit-findings", "1")

    assert done.code == 6
    line = done.out.splitlines()[2]
    assert line.startswith("missing: message ")
    assert line.endswith(
        f"key 'a', topic {sqlite_world.topic}, seq 1: delivered, and is not in the topic"
    )
    assert "wrong: 2; shown: 1" in done.err
    found = commands("verify", "--json").json
    assert [finding["key"] for finding in found["findings"]] == ["a", "b"]


def test_bad_input_is_refused_in_its_own_words(sqlite_world: World, commands: Commands) -> None:
    assert "has no offset" in commands("verify", "--since", "2026-11-21T09:30:00").err
    assert "is not a time" in commands("verify", "--since", "yesterday").err
    swapped = commands("verify", "--since", "1h", "--until", "2h")
    assert (swapped.code, "must be later than --since" in swapped.err) == (2, True)
    unknown = commands("verify", "--name", "nobody")
    assert (unknown.code, "no relay called 'nobody'" in unknown.err) == (78, True)


def test_servers_that_are_away_have_codes_of_their_own(
    sqlite_world: World, commands: Commands
) -> None:
    sqlite_world.write("a")
    away = commands("verify", "--connect-timeout", "0.5", "-X", "bootstrap.servers=127.0.0.1:1")
    assert (away.code, "Kafka does not answer" in away.err) == (4, True)

    url = "postgresql://127.0.0.1:1/nothing"
    away = commands("verify", "--connect-timeout", "0.5", "--database-url", url)
    assert (away.code, "cannot connect" in away.err) == (3, True)
