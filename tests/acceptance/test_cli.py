"""The commands: what they print where, and what they exit with."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from outbox import __version__
from outbox.cli.waiting import patiently
from outbox.database import DatabaseUrl, connect_postgresql, connect_sqlite
from outbox.errors import DatabaseUnavailable
from tests.acceptance.command import PROGRAM, ROOT, Commands, environment

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=KINDS)
def outbox_relay(request: pytest.FixtureRequest, tmp_path: Path) -> Commands:
    """Give the commands, with an empty database of each kind."""
    if request.param == "sqlite":
        return Commands(tmp_path, f"sqlite:///{tmp_path}/log.db")
    return Commands(tmp_path, str(request.getfixturevalue("postgresql_url")))


@pytest.fixture
def bare(tmp_path: Path) -> Commands:
    """Give the commands without any setting."""
    return Commands(tmp_path)


def write(commands: Commands, *payloads: str, topic: str = "t") -> None:
    url = DatabaseUrl.parse(commands.variables["OUTBOX_DATABASE_URL"])
    sqlite = url.dialect == "sqlite"
    connection: Any = connect_sqlite(url.path) if sqlite else connect_postgresql(url)
    with closing(connection):
        for payload in payloads:
            connection.execute(
                "insert into outbox_message (topic, key, payload) values "
                + ("(?, 'k', ?)" if sqlite else "(%s, 'k', %s::bytea)"),
                (topic, payload.encode()),
            )


# General


def test_the_version_is_printed(bare: Commands) -> None:
    assert bare("--version").out == f"outbox-relay {__version__}\n"


def test_help_comes_fast(bare: Commands) -> None:
    """It takes a tenth of this; a driver imported by mistake, on a busy machine, takes more."""
    times = []
    for _ in range(3):
        began = time.monotonic()
        assert bare("-h").code == 0
        times.append(time.monotonic() - began)
    assert min(times) < 1.0


def test_an_encoding_that_lacks_a_character_does_not_fail_a_command(bare: Commands) -> None:
    done = bare("run", "-h", PYTHONIOENCODING="latin-1")
    assert (done.code, done.err) == (0, "")
    assert "OUTBOX_KAFKA_BOOTSTRAP_SERVERS" in done.out


def test_json_is_json_in_any_encoding(outbox_relay: Commands) -> None:
    name = "\u65e5"
    done = outbox_relay(
        "config", "show", "--json", "-X", f"client.id={name}", PYTHONIOENCODING="latin-1"
    )
    assert done.json["settings"]["kafka.client.id"]["value"] == name


def test_a_stdout_that_is_closed_is_no_error(outbox_relay: Commands) -> None:
    assert outbox_relay("migrate").code == 0
    script = f"exec {shlex.join(PROGRAM)} status >&-"
    done = subprocess.run(
        ["sh", "-c", script],
        env=environment(**outbox_relay.variables),
        cwd=outbox_relay.directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_cannot_be_read_is_named_once(bare: Commands) -> None:
    said = bare("config", "show", "--config", "none.toml").err
    assert said.count("none.toml") == 1
    assert "No such file or directory" in said


@pytest.mark.parametrize("arguments", [["nonsense"], ["run", "--nonsense"], ["status", "extra"]])
def test_wrong_usage_exits_2(bare: Commands, arguments: list[str]) -> None:
    done = bare(*arguments)
    assert (done.code, done.out) == (2, "")
    assert "Usage: " in done.err


def test_an_error_is_one_line_and_a_traceback_only_on_demand(bare: Commands) -> None:
    done = bare("status")
    assert (done.code, done.out) == (78, "")
    assert done.err.startswith("error: no database: give --database-url")
    assert len(done.err.splitlines()) == 1
    assert "Traceback" in bare("--debug", "status").err


@pytest.mark.parametrize(
    "command", [["status"], ["relays", "list"], ["migrate"], ["migrate", "--check"]]
)
def test_a_database_that_is_away_exits_3_after_a_while(bare: Commands, command: list[str]) -> None:
    url = "postgresql://u:hunter2@127.0.0.1:1/db"
    done = bare(*command, "--connect-timeout", "0.3", OUTBOX_DATABASE_URL=url)
    assert (done.code, done.out) == (3, "")
    assert "trying for 0.3 seconds" in done.err.splitlines()[0]
    assert "Connection refused" in done.err.splitlines()[-1]
    assert "hunter2" not in done.err


SLOW_DRIVER = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "psycopg":
            time.sleep(0.4)

sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("command", [["status"], ["migrate"], ["migrate", "--check"]])
def test_the_time_to_load_the_driver_is_no_waiting(
    bare: Commands, tmp_path: Path, command: list[str]
) -> None:
    # Given a machine so busy that the driver takes longer to load than the timeout allows
    (tmp_path / "sitecustomize.py").write_text(SLOW_DRIVER)
    # When the database is away
    done = bare(
        *command,
        *("--connect-timeout", "0.3", "--database-url", "postgresql://u@127.0.0.1:1/db"),
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    # Then it is tried all the same for as long as was asked
    assert done.code == 3
    assert "trying for 0.3 seconds" in done.err.splitlines()[0]


def test_a_database_that_comes_back_in_time_is_waited_for() -> None:
    attempts = iter([DatabaseUnavailable("away"), DatabaseUnavailable("away"), None])

    def action() -> str:
        if error := next(attempts):
            raise error
        return "done"

    assert patiently(action, 5.0) == "done"


def test_a_missing_schema_exits_5(outbox_relay: Commands) -> None:
    done = outbox_relay("status")
    assert (done.code, done.out) == (5, "")
    assert "outbox-relay migrate" in done.err


# migrate


def test_migrate_makes_the_tables_and_says_so(outbox_relay: Commands) -> None:
    first, second = outbox_relay("migrate"), outbox_relay("migrate")
    assert (first.code, first.out, first.err) == (0, "", "applied 0001_outbox, 0001_inbox\n")
    assert (second.code, second.out) == (0, "")
    assert "up to date" in second.err
    assert outbox_relay("migrate", "--json").json == {"schema": "outbox.migrate/1", "applied": []}


def test_migrate_check_exits_6_until_all_is_well(outbox_relay: Commands) -> None:
    outbox_relay("migrate", "--only", "outbox")
    done = outbox_relay("migrate", "--check", "--json")
    assert done.code == 6
    assert done.json["schema"] == "outbox.check/1"
    assert [finding["component"] for finding in done.json["findings"]] == ["inbox"]
    assert outbox_relay("migrate", "--check", "--only", "outbox").code == 0


def test_migrate_prints_sql_without_a_database(bare: Commands) -> None:
    done = bare("migrate", "--sql", "--schema", "events", "--writer-role", "app")
    assert done.code == 0
    assert done.out.startswith('begin;\n\ncreate schema if not exists "events";')
    assert 'on "events"."outbox_message" to "app";' in done.out
    assert done.out.endswith("commit;\n")
    assert bare("migrate", "--sql", "--dialect", "sqlite").out.startswith("begin immediate;")


@pytest.mark.postgresql
def test_migrate_rebases(tmp_path: Path, postgresql_url: str) -> None:
    commands = Commands(tmp_path, postgresql_url)
    commands("migrate")
    write(commands, "a", "b")
    assert commands("migrate", "--rebase", "--json").json == {
        "schema": "outbox.rebase/1",
        "relays": [{"relay": "default", "lane": "default", "messages": 2}],
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--sql", "--check"],
        ["--sql", "--json"],
        ["--check", "--rebase"],
        ["--only", "inbox", "--relay-role", "r"],
    ],
)
def test_migrate_refuses_what_does_not_go_together(bare: Commands, arguments: list[str]) -> None:
    assert bare("migrate", *arguments).code == 2


# relays


def test_relay_names_are_made_listed_and_dropped(outbox_relay: Commands) -> None:
    outbox_relay("migrate")
    made = outbox_relay("relays", "create", "audit", "--from", "earliest")
    assert (made.code, made.out) == (0, "")
    assert outbox_relay("relays", "list").out == "audit\ndefault\n"
    assert outbox_relay("relays", "create", "audit", "--from", "latest").code == 78
    assert outbox_relay("relays", "rebind", "audit").code == 0
    assert outbox_relay("relays", "forget", "audit", answer="n\n").code == 1
    assert outbox_relay("relays", "forget", "audit", answer="y\n").code == 0
    assert outbox_relay("relays", "list", "--json").json == {
        "schema": "outbox.relays/1",
        "relays": ["default"],
    }


@pytest.mark.parametrize("command", ["forget", "rebind"])
def test_an_unknown_relay_name_exits_78(outbox_relay: Commands, command: str) -> None:
    outbox_relay("migrate")
    yes = ["--yes"] if command == "forget" else []
    done = outbox_relay("relays", command, "nobody", *yes)
    assert done.code == 78
    assert "relays create nobody" in done.err


# status


def test_status_shows_what_waits(outbox_relay: Commands) -> None:
    # Given two messages and nobody who delivers them
    outbox_relay("migrate")
    write(outbox_relay, "a", "b")
    # Then the table shows them, and a hint says what to do
    done = outbox_relay("status")
    assert done.code == 0
    header, row = done.out.splitlines()
    titles = ["RELAY", "LANE", "WAITING", "OLDEST", "HELD BY", "LEASE", "STATE"]
    assert re.split(r" {2,}", header.strip()) == titles
    assert row.split()[:3] == ["default", "default", "2"]
    assert "outbox-relay run --name default" in done.err
    # And programs get the same
    found = outbox_relay("status", "--json").json
    assert (found["schema"], found["blockers"]) == ("outbox.status/1", [])
    (relay,) = found["relays"]
    assert (relay["lag_messages"], relay["lag_is_exact"], relay["owner"]) == (2, True, None)
    assert relay["lag_seconds"] >= 0


def test_status_fails_if_messages_wait_too_long(outbox_relay: Commands) -> None:
    outbox_relay("migrate")
    assert outbox_relay("status", "--fail-if-lag", "0").code == 0
    write(outbox_relay, "a")
    late = outbox_relay("status", "--fail-if-lag", "0", "--json")
    assert (late.code, late.json["schema"]) == (6, "outbox.status/1")
    assert "oldest message" in late.err
    assert outbox_relay("status", "--fail-if-lag", "3600").code == 0


@pytest.mark.postgresql
def test_status_names_a_transaction_that_holds_messages(
    tmp_path: Path, postgresql_url: str
) -> None:
    commands = Commands(tmp_path, postgresql_url)
    commands("migrate")
    with closing(connect_postgresql(DatabaseUrl.parse(postgresql_url))) as connection:
        connection.execute("begin")
        connection.execute("insert into outbox_message (topic, key) values ('t', 'k')")
        (blocker,) = commands("status", "--json").json["blockers"]
        connection.execute("rollback")
    assert blocker["kind"] == "open"


# config


def test_config_show_names_every_source_and_hides_secrets(tmp_path: Path) -> None:
    (tmp_path / "outbox.toml").write_text('name = "audit"\n[kafka]\nsasl.password = "hunter2"\n')
    commands = Commands(tmp_path, "postgresql://u:hunter2@db/shop")
    done = commands("config", "show", "--lease", "20")
    assert done.code == 0
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert lines["name"].endswith("file outbox.toml")
    assert lines["lease"].split() == ["lease", "20.0", "flag", "--lease"]
    assert lines["database_url"].endswith("environment OUTBOX_DATABASE_URL")
    assert lines["schema"].endswith("default")
    assert "hunter2" not in done.out
    found = commands("config", "show", "--json").json
    assert found["schema"] == "outbox.config/1"
    assert found["settings"]["kafka.sasl.password"] == {
        "value": "***",
        "source": "file outbox.toml, table [kafka]",
    }


# run: what is wrong is said before anything is connected


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-X", "acks=1"], "acks (flag -X) cannot be set"),
        (["--delivery", "twice"], "use at-least-once or exactly-once"),
        (["-X", "transactional.id=mine"], "so that Kafka itself can fence an old owner"),
        (["-X", "transaction.timeout.ms=900000"], "holds up every read_committed consumer"),
        (["-X", "isolation.level=read_uncommitted"], "it is a consumer's"),
        (["-X", "group.id=mine"], "under the name of its transactional.id"),
        (["-X", "no.such.thing=1", "--drain"], "no.such.thing"),
        (["-X", "no.such.thing=1", "--drain", "--delivery", "exactly-once"], "no.such.thing"),
        (["--name", "not a name"], "not a valid name"),
    ],
)
def test_run_refuses_bad_configuration(
    outbox_relay: Commands, arguments: list[str], words: str
) -> None:
    outbox_relay("migrate")
    done = outbox_relay("run", *arguments, OUTBOX_KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (done.code, done.out) == (78, "")
    assert words in done.err


def test_run_without_a_broker_names_the_ways_to_give_one(outbox_relay: Commands) -> None:
    done = outbox_relay("run")
    assert done.code == 78
    assert "-X bootstrap.servers=HOST:PORT" in done.err


def test_run_under_an_unknown_name_says_how_to_make_it(outbox_relay: Commands) -> None:
    outbox_relay("migrate")
    done = outbox_relay("run", "--name", "audit", "-X", "bootstrap.servers=127.0.0.1:1")
    assert done.code == 78
    assert "relays create audit" in done.err


def test_run_without_tables_exits_5(outbox_relay: Commands) -> None:
    assert outbox_relay("run", "-X", "bootstrap.servers=127.0.0.1:1").code == 5


def test_a_drain_gives_up_on_a_broker_that_is_away(outbox_relay: Commands) -> None:
    outbox_relay("migrate")
    write(outbox_relay, "a")
    done = outbox_relay(
        "run", "--drain", "--connect-timeout", "0.5", "-X", "bootstrap.servers=127.0.0.1:1"
    )
    assert done.code == 4


def test_a_drain_gives_up_on_a_database_that_is_away(bare: Commands) -> None:
    url = "postgresql://127.0.0.1:1/db"
    done = bare(
        *["run", "--drain", "--connect-timeout", "0.5", "-X", "bootstrap.servers=127.0.0.1:1"],
        OUTBOX_DATABASE_URL=url,
    )
    assert done.code == 3
