"""What operators say to pause and to resume, and what they are told."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from outbox.cli.app import run
from outbox.migrations import migrate

Command = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    url = f"sqlite:///{tmp_path}/log.db"
    migrate(url)
    monkeypatch.setenv("OUTBOX_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "log.db"


@pytest.fixture
def command(path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Give what runs a command and returns its stdout, or with `--json` what that says, and its
    stderr."""
    assert path.exists()

    def execute(*arguments: str, code: int = 0) -> tuple[Any, str]:
        capsys.readouterr()
        assert run(arguments) == code
        out, told = capsys.readouterr()
        return json.loads(out) if "--json" in arguments else out, told

    return execute


def paused(command: Command) -> list[tuple[str | None, ...]]:
    found, _ = command("paused", "--json")
    assert found["schema"] == "outbox.paused/1"
    return [(each["relay"], each["lane"], each["topic"]) for each in found["paused"]]


def test_what_is_paused_is_listed_with_who_and_why(command: Command) -> None:
    _, told = command("pause", "--topic", "orders", "--reason", "repairs")

    assert told == "paused: topic orders\n"
    table, _ = command("paused")
    assert [line.split()[:3] for line in table.splitlines()] == [
        ["RELAY", "LANE", "TOPIC"],
        ["all", "all", "orders"],
    ]
    assert table.rstrip().endswith("repairs")
    assert paused(command) == [(None, None, "orders")]


def test_pausing_twice_and_resuming_twice_is_no_error(command: Command, path: Path) -> None:
    for expected in ("paused: lane default\n", "paused already: lane default\n"):
        assert command("pause", "--lane", "default")[1] == expected
    for expected in ("resumed: lane default\n", "not paused: lane default\n"):
        assert command("resume", "--lane", "default")[1] == expected

    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("select command, what from outbox_audit order by id").fetchall()
    what = {"relay": None, "lane": "default", "topic": None}
    assert [(command, json.loads(given)) for command, given in rows] == [
        ("pause", what),
        ("resume", what),
    ]


def test_resuming_lifts_what_is_of_it_and_says_what_still_holds_it(command: Command) -> None:
    command("pause", "--all")
    command("pause", "--name", "default")
    command("pause", "--name", "default", "--lane", "default")
    command("pause", "--topic", "orders")

    _, told = command("resume", "--name", "default")

    assert told.splitlines() == [
        "resumed: relay default",
        "resumed: relay default, lane default",
        "still paused, and more than that: everything",
        "still paused, in part: topic orders",
    ]
    assert paused(command) == [(None, None, None), (None, None, "orders")]
    command("resume", "--all")
    assert paused(command) == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "say what: --name, --lane, --topic or several of them, or --all"),
        (("--all", "--lane", "default"), 2, "say what"),
        (("--lane", "bulk"), 78, "there is no lane called 'bulk'; there are default"),
        (("--name", "audit"), 78, "there is no relay called 'audit'"),
        (("--name", "a b"), 78, "relay 'a b' is not a valid name"),
        (("--topic", "a b"), 1, "topic 'a b' is not a valid Kafka topic name"),
    ],
)
def test_what_means_nothing_is_refused(
    command: Command, arguments: tuple[str, ...], code: int, said: str
) -> None:
    _, told = command("pause", *arguments, code=code)

    assert said in told
    assert paused(command) == []


def test_the_status_says_what_is_paused(command: Command) -> None:
    command("pause", "--lane", "default", "--reason", "repairs")

    table, told = command("status")
    found, _ = command("status", "--json")

    assert [line.split()[-1] for line in table.splitlines()] == ["STATE", "paused"]
    assert "lane default: repairs" in told
    assert found["paused"][0]["reason"] == "repairs"


def test_the_status_says_what_a_process_waits_for(command: Command, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "insert into outbox_process (relay, process, version, state)"
            " values ('default', 'here', '0', 'waiting')"
        )

    table, _ = command("status")

    assert table.splitlines()[1].split()[-1] == "waiting"


def test_the_limit_of_the_backlog_is_set_shown_and_taken_away(command: Command) -> None:
    _, told = command("migrate", "--backlog-limit", "3", "--backlog-action", "raise")
    assert "writers refuse when 3 messages wait" in told
    backlog = command("status", "--json")[0]["backlog"]
    assert (backlog["limit"], backlog["action"], backlog["messages"]) == (3, "raise", 0)

    command("migrate", "--backlog-action", "off")

    assert command("status", "--json")[0]["backlog"]["limit"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("--backlog-action", "raise"),
        ("--backlog-limit", "3", "--backlog-action", "off"),
        ("--backlog-limit", "0"),
        ("--backlog-limit", "3", "--check"),
        ("--backlog-limit", "3", "--sql"),
        ("--backlog-limit", "3", "--only", "inbox"),
    ],
)
def test_a_limit_that_means_nothing_is_refused(
    command: Command, arguments: tuple[str, ...]
) -> None:
    command("migrate", *arguments, code=2)

    assert command("status", "--json")[0]["backlog"]["limit"] is None
