"""What operators do with messages that wait."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from outbox.cli.app import run
from outbox.migrations import migrate
from outbox.writer.outbox import Outbox
from tests.integration.writing import Database

EVENTS = Outbox()

Command = Callable[..., Any]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Give a database in which some messages wait."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/log.db"
    else:
        url = request.getfixturevalue("postgresql_url")
    migrate(url)
    made = Database(url)
    with made.engine().begin() as connection:
        for hours in (2, 1, 3):
            delay = timedelta(hours=hours)
            EVENTS.add(connection, "reminders", b"x" * hours, key=f"k{hours}", delay=delay)
        for number in (1, 2):
            EVENTS.add(connection, "orders", b"", key="k1", wait_for=f"payment-{number}")
    return made


@pytest.fixture
def command(
    database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Give what runs a command and returns its JSON."""
    monkeypatch.setenv("OUTBOX_DATABASE_URL", database.url)

    def execute(*arguments: str, code: int = 0) -> Any:
        capsys.readouterr()
        assert run(["scheduled", *arguments, "--json"]) == code
        out, _ = capsys.readouterr()
        return json.loads(out) if out else None

    return execute


def keys(listed: Any) -> list[str]:
    assert listed["schema"] == "outbox.scheduled/1"
    return [message["key"] for message in listed["messages"]]


def audit(database: Database) -> list[tuple[str, str, int]]:
    with database._connection() as connection:
        rows = connection.execute(
            "select command, what, messages from outbox_audit order by id"
        ).fetchall()
    found = [(row["command"], row["what"], row["messages"]) for row in rows]
    return [(c, json.loads(w) if isinstance(w, str) else w, m) for c, w, m in found]


def test_what_waits_is_listed_the_first_due_first(command: Command) -> None:
    listed = command("list")
    assert keys(listed) == ["k1", "k2", "k3", "k1", "k1"]
    assert listed["more"] is False
    assert [message["state"] for message in listed["messages"]] == ["scheduled"] * 3 + [
        "waiting"
    ] * 2
    first, last = listed["messages"][0], listed["messages"][-1]
    assert (first["bytes"], first["topic"], first["wait_for"]) == (1, "reminders", None)
    assert (last["due_at"], last["wait_for"]) == (None, "payment-2")


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["--topic", "reminders"], ["k1", "k2", "k3"]),
        (["--key", "k1"], ["k1", "k1", "k1"]),
        (["--key", "k1", "--topic", "orders"], ["k1", "k1"]),
        (["--condition", "payment-2"], ["k1"]),
        (["--state", "waiting"], ["k1", "k1"]),
        (["--due-before", "2100-01-01T00:00:00Z"], ["k1", "k2", "k3"]),
        (["--due-before", "1s"], []),
        (["--topic", "nothing"], []),
        (["--limit", "2"], ["k1", "k2"]),
    ],
)
def test_filters_choose(command: Command, filters: list[str], found: list[str]) -> None:
    assert keys(command("list", *filters)) == found


def test_one_is_cancelled_by_its_id(command: Command, database: Database) -> None:
    message = command("list")["messages"][1]
    done = command("cancel", "--id", message["id"], "--yes")
    assert done == {
        "schema": "outbox.scheduled/1",
        "action": "cancel",
        "dry_run": False,
        "matching": 1,
        "changed": 1,
    }
    assert keys(command("list")) == ["k1", "k3", "k1", "k1"]
    assert audit(database) == [("scheduled cancel", {"id": message["id"]}, 1)]
    assert command("cancel", "--id", message["id"], "--yes")["changed"] == 0


def test_many_are_cancelled_in_batches(
    command: Command, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outbox.cli.scheduled._BATCH", 2)
    assert command("cancel", "--topic", "reminders", "--all-matching", "--yes")["changed"] == 3
    assert keys(command("list")) == ["k1", "k1"]
    assert [messages for _, _, messages in audit(database)] == [2, 1]


def test_what_is_released_is_due(command: Command, database: Database) -> None:
    assert command("release", "--condition", "payment-1", "--yes")["changed"] == 1
    listed = command("list")["messages"]
    assert [message["state"] for message in listed].count("waiting") == 1
    assert (listed[0]["topic"], listed[0]["wait_for"]) == ("orders", None)
    assert audit(database) == [
        ("scheduled release", {"condition": "payment-1", "state": "waiting"}, 1)
    ]


def test_what_waits_for_a_time_is_not_released(command: Command) -> None:
    assert command("release", "--key", "k1", "--all-matching", "--yes")["changed"] == 2
    assert command("release", "--all-matching", "--yes")["changed"] == 0


@pytest.mark.parametrize("verb", ["cancel", "release"])
def test_nothing_is_changed_unless_it_is_meant(
    command: Command, database: Database, verb: str
) -> None:
    before = command("list")
    # Without saying that all are meant, or where nobody answers the question, or to see how many
    command(verb, "--topic", "orders", "--yes", code=2)
    command(verb, "--topic", "orders", "--all-matching", code=1)
    assert command(verb, "--topic", "orders", "--all-matching", "--dry-run")["matching"] == 2
    assert command("list") == before
    assert audit(database) == []


def test_bad_values_are_named(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["scheduled", "list", "--due-before", "tomorrow"]) == 2
    assert "'tomorrow' is not a time" in capsys.readouterr().err
    assert run(["scheduled", "cancel", "--id", "7"]) == 2
    assert "'7' is not a valid UUID" in capsys.readouterr().err


def test_status_tells_how_much_waits(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    del command
    assert run(["status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["scheduled"]
    assert (told["scheduled"], told["waiting"]) == (3, 2)
    assert 3500 < told["next_due_seconds"] <= 3600
    assert run(["status"]) == 0
    shown = capsys.readouterr()
    assert re.search("3 messages are scheduled, the next is due in (59 min|1 h 0 min)", shown.err)
    assert "2 messages wait for a condition" in shown.err
