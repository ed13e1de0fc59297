"""The commands for held messages, on a SQLite file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from outbox.cli.app import run
from outbox.database import connect_sqlite
from outbox.migrations import migrate

ID = "018f3f1e-0000-7000-8000-00000000000{}"


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a log with a dead message and two behind it."""
    path = tmp_path / "log.db"
    migrate(f"sqlite:///{path}")
    monkeypatch.setenv("OUTBOX_DATABASE_URL", f"sqlite:///{path}")
    connection = connect_sqlite(str(path))
    for number in (1, 2, 3):
        connection.execute(
            "insert into outbox_held (relay, lane, seq, created_at, id, topic, key, payload, state,"
            " blocks) values ('default', 'default', ?, 1e9, ?, 'orders', 'ada', x'78', ?, 1)",
            (number, ID.format(number), "dead" if number == 1 else "blocked"),
        )
    connection.close()
    return path


def states(database: Path) -> list[str]:
    connection = connect_sqlite(str(database))
    rows = connection.execute("select state from outbox_held order by seq").fetchall()
    connection.close()
    return [state for (state,) in rows]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert run([*arguments, "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_what_is_held_is_listed_and_shown(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = printed(capsys, "held", "list", "--state", "dead")
    assert listed["schema"] == "outbox.held/1"
    assert listed["counts"] == {"retrying": 0, "blocked": 2, "dead": 1, "expired": 0}
    assert [message["seq"] for message in listed["messages"]] == [1]  # type: ignore[attr-defined]  # JSON
    assert run(["held", "show", ID.format(1)]) == 0
    out = capsys.readouterr().out
    assert "orders" in out
    assert "payload" not in out, "a payload may be nobody's business"
    assert run(["held", "show", ID.format(1), "--payload"]) == 0
    assert "payload" in capsys.readouterr().out
    assert states(database) == ["dead", "blocked", "blocked"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["discard"], 2, "say --all-matching"),
        (["requeue", "--topic", "orders"], 2, "say --all-matching"),
        (["discard", "--id", "7"], 2, "'7' is not a message's id"),
        (["show", "7"], 2, "'7' is not a message's id"),
        (["show", ID.format(9)], 1, "holds no message"),
        (["list", "--name", "nobody"], 78, "no relay called 'nobody'"),
        (["discard", "--all-matching", "--name", "nobody", "--yes"], 78, "no relay called"),
        (["edit", ID.format(1)], 2, "say what is to be changed"),
        (["edit", ID.format(2), "--payload", "y", "--yes"], 1, "is blocked, and may go any moment"),
        (["edit", ID.format(9), "--payload", "y", "--yes"], 1, "holds no message"),
        (["edit", ID.format(1), "--payload", "y"], 1, "the payload is another one"),
        (["edit", ID.format(1), "--payload", "y", "--payload-file", __file__], 2, "not both"),
        (["edit", ID.format(1), "--payload-file", "-"], 2, "stdin is the payload"),
        (["edit", ID.format(1), "--topic", "bad topic", "--yes"], 2, "not a valid Kafka topic"),
        (["edit", ID.format(1), "--header", "id=7", "--yes"], 2, "'id' is reserved"),
        (["edit", ID.format(1), "--header", "region", "--yes"], 2, "is not NAME=VALUE"),
        (["edit", ID.format(1), "--header", "a=1", "--header", "a=2"], 2, "'a' is given twice"),
        (["edit", ID.format(1), "--remove-header", "a", "--yes"], 2, "no header 'a'"),
        (["edit", ID.format(1), "--payload", "y" * 1_000_001, "--yes"], 2, "the limit is"),
    ],
)
def test_mistakes_change_nothing(
    database: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    says: str,
) -> None:
    assert run(["held", *arguments]) == code
    assert says in capsys.readouterr().err
    assert states(database) == ["dead", "blocked", "blocked"]


def test_nothing_is_discarded_without_a_yes(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["held", "discard", "--all-matching"]) == 1  # nobody is there to answer
    assert "discard 3 messages?" in capsys.readouterr().err
    assert run(["held", "discard", "--all-matching", "--dry-run"]) == 0
    assert states(database) == ["dead", "blocked", "blocked"]


def test_what_was_done_is_in_the_audit(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    requeued = printed(capsys, "held", "requeue", "--id", ID.format(1), "--yes")
    assert (requeued["matching"], requeued["changed"]) == (1, 1)
    assert states(database) == ["retrying", "blocked", "blocked"]
    discarded = printed(capsys, "held", "discard", "--key", "ada", "--all-matching", "--yes")
    assert discarded["changed"] == 3
    assert states(database) == []
    listed = printed(capsys, "audit", "list")
    actions: list[dict[str, object]] = listed["actions"]  # type: ignore[assignment]  # JSON
    assert [(action["command"], action["messages"]) for action in actions] == [
        ("held discard", 3),
        ("held requeue", 1),
    ]
    assert actions[0]["what"]["key"] == "ada"  # type: ignore[index]  # JSON
    assert run(["audit", "list"]) == 0
    assert "held discard" in capsys.readouterr().out


def test_a_message_is_edited_with_what_is_given_and_the_rest_as_it_was(
    database: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    connection = connect_sqlite(str(database))
    connection.execute("""update outbox_held set headers = '{"a":"1","b":"2"}', type = 't'""")
    (tmp_path / "mended").write_bytes(b"\x00\xff")
    edit = ["held", "edit", ID.format(1), "--payload-file", str(tmp_path / "mended")]
    edit += ["--header", "b=3", "--header", "c=4"]

    # Only looked at, nothing changes
    tried = printed(capsys, *edit, "--dry-run")
    assert (tried["schema"], tried["changed"]) == ("outbox.held.edit/1", 0)
    assert states(database) == ["dead", "blocked", "blocked"]

    done = printed(capsys, *edit, "--yes")
    assert (done["changed"], done["replaces"], done["changes"]) == (
        1,
        ID.format(1),
        ["headers", "payload"],
    )
    rows = connection.execute(
        "select id, topic, key, type, payload, headers from outbox_held where seq = 1"
    ).fetchall()
    connection.close()
    (message,) = [done["message"]]
    assert rows == [
        (
            message["id"],  # type: ignore[index]  # JSON
            "orders",
            "ada",
            "t",
            b"\x00\xff",
            f'[["a","1"],["b","3"],["c","4"],["outbox-edited-from","{ID.format(1)}"]]',
        )
    ]
    assert states(database) == ["retrying", "blocked", "blocked"]


def test_of_several_with_one_id_the_position_says_which(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = connect_sqlite(str(database))
    connection.execute(f"update outbox_held set id = '{ID.format(1)}', state = 'dead', blocks = 0")
    connection.close()
    assert run(["held", "edit", ID.format(1), "--payload", "y", "--yes"]) == 2
    assert "say --position, of 1, 2, 3" in capsys.readouterr().err
    done = printed(
        capsys, "held", "edit", ID.format(1), "--payload", "y", "--position", "2", "--yes"
    )
    assert done["position"] == 2
    assert states(database) == ["dead", "retrying", "dead"]


def test_the_status_tells_what_is_held(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, "status")
    held: dict[str, object] = told["held"]["default"]  # type: ignore[index]  # JSON
    assert held["messages"] == {"retrying": 0, "blocked": 2, "dead": 1, "expired": 0}
    assert held["stopped_keys"] == 1
    assert list(held["oldest_seconds"]) == ["dead"]  # type: ignore[call-overload]  # JSON
    assert told["relays"][0]["delivery"] == "at-least-once"  # type: ignore[index]  # JSON
    assert run(["status"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "messages are held: 2 blocked, 1 dead; the oldest was written" in said
    assert "1 key is stopped" in said
    assert "held list --name default" in said
    assert states(database) == ["dead", "blocked", "blocked"]
