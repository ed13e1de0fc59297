"""`outbox-relay lanes`: what it prints, changes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command import Commands
from tests.acceptance.test_cli import KINDS, write


@pytest.fixture(params=KINDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Commands:
    """Give the commands, with the tables on each kind of database."""
    url = f"sqlite:///{tmp_path}/log.db"
    if request.param != "sqlite":
        url = str(request.getfixturevalue("postgresql_url"))
    commands = Commands(tmp_path, url)
    assert commands("migrate").code == 0
    return commands


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Commands:
    commands = Commands(tmp_path, f"sqlite:///{tmp_path}/log.db")
    assert commands("migrate").code == 0
    return commands


def listed(commands: Commands) -> dict[str, tuple[int, int]]:
    """Return priority and shards of each lane."""
    found = commands("lanes", "list", "--json").json
    assert found["schema"] == "outbox.lanes/1"
    return {lane["name"]: (lane["priority"], lane["shards"]) for lane in found["lanes"]}


def test_lanes_are_declared_listed_changed_and_removed(log: Commands) -> None:
    done = log("lanes", "declare", "urgent", "--priority", "10")
    assert (done.code, done.out) == (0, "")
    assert done.err == "lane urgent: declared, priority 10, 1 shard\n"
    assert log("lanes", "declare", "bulk", "--priority", "-10").code == 0
    # The table is ordered as the lanes are served
    header, *rows = log("lanes", "list").out.splitlines()
    assert header.split() == ["LANE", "PRIORITY", "SHARDS"]
    assert [row.split()[0] for row in rows] == ["urgent", "default", "bulk"]
    # What is not given stays as it is
    log("lanes", "declare", "urgent", "--priority", "20")
    assert log("lanes", "declare", "urgent").err == "nothing to change\n"
    assert listed(log) == {"urgent": (20, 1), "default": (0, 1), "bulk": (-10, 1)}
    assert log("lanes", "remove", "bulk").err == "lane bulk: removed\n"
    assert listed(log) == {"urgent": (20, 1), "default": (0, 1)}


def test_status_shows_each_stream(log: Commands) -> None:
    log("lanes", "declare", "urgent", "--priority", "10")
    write(log, "a")
    found = log("status", "--json").json["relays"]
    assert {each["lane"]: each["lag_messages"] for each in found} == {"default": 1, "urgent": 0}


def test_what_waits_while_lanes_change_is_shown_where_it_waits(log: Commands) -> None:
    # Given messages that were written before a lane was removed, and after
    log("lanes", "declare", "t", "--priority", "1")
    assert log("lanes", "remove", "t").code == 0
    write(log, "a", "b")
    # Then status counts each once, also before any relay has taken the change up
    found = log("status", "--json").json["relays"]
    assert sum(each["lag_messages"] for each in found) == 2


@pytest.mark.postgresql
def test_a_lane_gets_shards_on_postgresql(tmp_path: Path, postgresql_url: str) -> None:
    log = Commands(tmp_path, postgresql_url)
    log("migrate")
    done = log("lanes", "declare", "default", "--shards", "3")
    assert done.err == "lane default: changed to priority 0, 3 shards\n"
    streams = {each["lane"] for each in log("status", "--json").json["relays"]}
    assert streams == {"default", "default:0", "default:1", "default:2"}


def test_sqlite_refuses_shards_and_changes_nothing(on_sqlite: Commands) -> None:
    done = on_sqlite("lanes", "declare", "default", "--shards", "3")
    assert done.code == 78
    assert "cannot have shards on SQLite" in done.err
    assert listed(on_sqlite) == {"default": (0, 1)}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["declare", "not a name"], 78, "'not a name' is not a valid name"),
        (["declare", "a:1"], 78, "'a:1' is not a valid name"),
        (["declare", "x", "--priority", "1001"], 78, "use -1000 to 1000"),
        (["declare", "x", "--shards", "0"], 78, "use 1 to 64"),
        (["declare", "x", "--priority", "high"], 2, "'high' is not a valid integer"),
        (["remove", "default"], 78, "cannot be removed"),
        (["remove", "nobody"], 78, "there is no lane called 'nobody'"),
        (["apply"], 78, "write a table such as [lanes.urgent]"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(
    on_sqlite: Commands, arguments: list[str], code: int, words: str
) -> None:
    done = on_sqlite("lanes", *arguments)
    assert (done.code, done.out) == (code, "")
    assert words in done.err
    assert listed(on_sqlite) == {"default": (0, 1)}


def test_lanes_of_a_log_without_tables_exit_5(tmp_path: Path) -> None:
    assert Commands(tmp_path, f"sqlite:///{tmp_path}/log.db")("lanes", "list").code == 5


# The settings


def settings(commands: Commands, text: str) -> None:
    (commands.directory / "outbox.toml").write_text(text)


def test_the_lanes_of_the_settings_are_applied_when_that_is_asked_for(log: Commands) -> None:
    # Given a lane that the settings do not have, and one that they have
    log("lanes", "declare", "old")
    settings(log, "[lanes.urgent]\npriority = 10\n[lanes.bulk]\npriority = -10\n")
    # When it is asked what would change, nothing does
    said = "lane urgent: declared, priority 10, 1 shard\n"
    said += "lane bulk: declared, priority -10, 1 shard\nlane old: removed\n"
    assert log("lanes", "apply", "--dry-run").err == said
    assert listed(log) == {"default": (0, 1), "old": (0, 1)}
    # And when they are applied, there are these and `default`
    assert log("lanes", "apply").err == said
    assert listed(log) == {"urgent": (10, 1), "default": (0, 1), "bulk": (-10, 1)}
    assert log("lanes", "apply").err == "nothing to change\n"


def test_config_show_shows_the_lanes(on_sqlite: Commands) -> None:
    settings(on_sqlite, "[lanes.bulk]\npriority = -10\nshards = 4\n")
    assert on_sqlite("config", "show", "--json").json["settings"]["lanes.bulk"] == {
        "value": "priority -10, shards 4",
        "source": "file outbox.toml",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lanes = 3", "lanes must be a table of tables: [lanes.urgent]"),
        ("[lanes]\nurgent = 5", "[lanes] must hold tables such as [lanes.urgent]"),
        ('[lanes.urgent]\npriority = "high"', "[lanes.urgent]: priority must be a number"),
        ("[lanes.urgent]\npriority = true", "[lanes.urgent]: priority must be a number"),
        ("[lanes.urgent]\nprio = 1", "unknown setting 'prio'; known are priority, shards"),
        ('[lanes."a b"]\npriority = 1', "'a b' is not a valid name"),
        ("[lanes.urgent]\nshards = 65", "use 1 to 64"),
    ],
)
def test_what_is_wrong_in_the_settings_is_said(on_sqlite: Commands, text: str, words: str) -> None:
    settings(on_sqlite, text)
    done = on_sqlite("lanes", "apply")
    assert done.code == 78
    assert words in done.err
    (on_sqlite.directory / "outbox.toml").unlink()
    assert listed(on_sqlite) == {"default": (0, 1)}
