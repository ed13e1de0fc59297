"""`flask outbox …`, as a process of its own."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer
from flask import Flask

from outbox.flask import FlaskOutbox
from tests.acceptance.command import Done, Running, environment
from tests.flask.conftest import sqlalchemy_url, with_tables
from tests.flask.shop import create_app
from tests.integration.writing import Database

if TYPE_CHECKING:
    from tests.servers.kafka_topics import KafkaServer

COMMANDS = ("run", "migrate", "status", "relays", "config", "consume")


@dataclass
class FlaskCommand:
    """Runs `flask` in a directory; `variables` are its environment."""

    directory: Path
    variables: dict[str, str] = field(default_factory=dict)

    def __call__(self, *arguments: str) -> Done:
        done = subprocess.run(
            self._line(arguments), **self._place(), capture_output=True, text=True, timeout=60
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str) -> Running:
        return Running(
            subprocess.Popen(
                self._line(arguments), **self._place(), stderr=subprocess.PIPE, text=True
            )
        )

    def _line(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "flask", *arguments]

    def _place(self) -> dict[str, object]:
        return {"cwd": self.directory, "env": environment(**self.variables)}


@pytest.fixture
def flask(tmp_path: Path) -> FlaskCommand:
    """Give `flask` with a shop on SQLite."""
    url = f"sqlite:///{tmp_path}/shop.db"
    variables = {"FLASK_APP": "tests.flask.shop", "DATABASE_URL": url, "KIND": "flask-sqlalchemy"}
    return FlaskCommand(tmp_path, variables)


def test_the_help_needs_no_app(tmp_path: Path) -> None:
    bare = FlaskCommand(tmp_path)
    done = bare("outbox", "--help")
    assert done.code == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in done.out] == []
    assert "demo" not in done.out
    assert "outbox" in bare("--help").out
    run = bare("outbox", "run", "--help")
    assert run.code == 0
    assert "flask outbox run --drain" in run.out
    assert "outbox-relay run" not in run.out


def test_without_an_app_a_command_says_so(tmp_path: Path) -> None:
    done = FlaskCommand(tmp_path)("outbox", "status")
    assert done.code == 2
    assert "Could not locate a Flask application" in done.err


def test_an_app_that_was_not_set_up_is_bad_configuration(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    done = FlaskCommand(tmp_path, {"FLASK_APP": "bare"})("outbox", "status")
    assert done.code == 78
    assert done.err == (
        "error: the Flask app 'bare' has no outbox: call init_app(app) of a FlaskOutbox where the "
        "app is made\n"
    )


def test_exit_codes_are_those_of_the_command_and_advice_names_flask(flask: FlaskCommand) -> None:
    assert flask("routes").code == 0  # makes the app and with it the file
    missing = flask("outbox", "status")
    assert missing.code == 5
    assert "flask outbox migrate" in missing.err
    assert "outbox-relay migrate" not in missing.err
    assert flask("outbox", "migrate").code == 0
    assert flask("outbox", "migrate", "--check").code == 0
    assert flask("outbox", "run", "--drain", "--connect-timeout", "1").code == 4
    assert flask("outbox", "run", "--delivery", "never").code == 78
    assert flask("outbox", "demo").code == 2
    assert "Traceback" in flask("outbox", "--debug", "run", "--delivery", "never").err


def test_config_show_says_what_came_from_the_app(flask: FlaskCommand) -> None:
    done = flask("outbox", "config", "show", "--json", "--lease", "3")
    shown = done.json["settings"]
    url = flask.variables["DATABASE_URL"]
    assert shown["database_url"] == {"value": url, "source": "app.config"}
    assert shown["kafka.bootstrap.servers"]["source"] == "app.config"
    assert shown["lease"] == {"value": 3.0, "source": "flag --lease"}
    flask.variables["OUTBOX_DATABASE_URL"] = "sqlite:////tmp/other.db"
    shown = flask("outbox", "config", "show", "--json").json["settings"]
    assert shown["database_url"]["source"] == "environment OUTBOX_DATABASE_URL"


def test_the_app_s_own_test_runner_knows_the_commands(tmp_path: Path) -> None:
    app = create_app("flask-sqlalchemy", f"sqlite:///{tmp_path}/shop.db")
    runner = app.test_cli_runner()
    assert runner.invoke(args=["outbox", "migrate"]).exit_code == 0
    shown = runner.invoke(args=["outbox", "relays", "list", "--json"])
    assert json.loads(shown.stdout)["relays"] == ["default"]
    wrong = Flask("wrong")
    FlaskOutbox(wrong)
    failed = wrong.test_cli_runner().invoke(args=["outbox", "status"])
    assert failed.exit_code == 78
    assert "no database" in failed.stderr
    url = f"--database-url=sqlite:///{tmp_path}/shop.db"
    failed = wrong.test_cli_runner().invoke(args=["outbox", "run", "--drain", url])
    assert failed.exit_code == 78
    assert 'app.config["OUTBOX_KAFKA"] = {"bootstrap.servers": …}' in failed.stderr


#: Each kind of app and each kind of database; a process takes a while to start.
PLACES = [
    ("flask-sqlalchemy", "postgresql"),
    ("flask-sqlalchemy-lite", "sqlite"),
    ("sqlalchemy", "postgresql"),
]


@pytest.fixture(params=PLACES, ids="-on-".join)
def kind(request: pytest.FixtureRequest) -> str:
    """Give a way in which an app has its database."""
    chosen: str = request.param[0]
    return chosen


@pytest.fixture
def database(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Database:
    """Give the database that goes with it."""
    if dict(PLACES)[kind] == "postgresql":
        return with_tables(request.getfixturevalue("postgresql_url"))
    return with_tables(f"sqlite:///{tmp_path}/shop.db")


@pytest.fixture
def shop(
    kind: str, database: Database, kafka: KafkaServer, tmp_path: Path
) -> tuple[FlaskCommand, str]:
    """Give `flask` with an app of each kind, and its topic."""
    topic = kafka.create_topic(partitions=2)
    variables = {
        "FLASK_APP": "tests.flask.shop",
        "KIND": kind,
        "DATABASE_URL": sqlalchemy_url(database),
        "BROKER": kafka.bootstrap_servers,
        "TOPIC": topic,
    }
    return FlaskCommand(tmp_path, variables), topic


def test_what_a_request_wrote_is_relayed(
    shop: tuple[FlaskCommand, str], kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a request that was committed, and one that was not
    flask, topic = shop
    for name, value in flask.variables.items():
        monkeypatch.setitem(os.environ, name, value)
    client = create_app().test_client()
    message = client.post("/orders", json={"customer": "ada"}).json["message"]
    assert client.post("/orders", json={"customer": "nobody"}).status_code == 500

    # When
    done = flask("outbox", "run", "--drain")

    # Then
    assert done.code == 0, done.err
    (sent,) = kafka.read(topic)
    assert (sent.key(), sent.value()) == (b"ada", b'{"order":1}')
    assert dict(sent.headers())["id"] == message.encode()


def test_messages_take_effect_once_in_the_app_s_own_transaction(
    shop: tuple[FlaskCommand, str], database: Database, kafka: KafkaServer
) -> None:
    # Given a message that comes twice, and another
    flask, topic = shop
    _send(kafka, topic, ["m-1", "m-1", "m-2"])
    plain = ["--transactions", "tests.flask.shop:begin"]
    extra = plain if flask.variables["KIND"] == "sqlalchemy" else []

    # When
    done = flask(
        *("outbox", "consume", "tests.flask.shop:keep", "--topic", topic),
        *("--consumer", f"billing-{secrets.token_hex(4)}", "--until-idle", "1", *extra),
        *("-X", "fetch.wait.max.ms=20"),
    )

    # Then
    assert done.code == 0, done.err
    assert sorted(_customers(database)) == ["tests.flask.shop: m-1", "tests.flask.shop: m-2"]


def test_a_consumer_goes_on_until_it_is_told_to_stop(
    flask: FlaskCommand, kafka: KafkaServer
) -> None:
    topic = kafka.create_topic(partitions=1)
    flask.variables["BROKER"] = kafka.bootstrap_servers
    assert flask("outbox", "migrate").code == 0
    _send(kafka, topic, ["m-1"])
    line = ("outbox", "consume", "tests.flask.shop:fail", "--topic", topic, "--consumer", "b")
    with flask.start(*line, "--log-format", "json") as running:
        running.says(f"consumer b gives the messages of {topic} to tests.flask.shop:fail")
        running.says("failed with RuntimeError, attempt 1")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
    database = Database(flask.variables["DATABASE_URL"])
    assert _customers(database) == []


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("tests.flask.shop", "write module:function"),
        ("tests.flask.shop:nothing", "no attribute 'nothing'"),
        ("nowhere:handle", "No module named 'nowhere'"),
        ("tests.flask.shop:KINDS", "must be a function"),
    ],
)
def test_a_handler_that_cannot_be_called_is_a_mistake_in_the_command(
    flask: FlaskCommand, handler: str, words: str
) -> None:
    done = flask("outbox", "consume", handler, "--topic", "orders", "--consumer", "billing")
    assert done.code == 2
    assert words in done.err
    assert "Traceback" not in done.err


def test_without_a_session_the_consumer_asks_for_one(flask: FlaskCommand) -> None:
    flask.variables["KIND"] = "sqlalchemy"
    done = flask(
        "outbox", "consume", "tests.flask.shop:keep", "--topic", "orders", "--consumer", "billing"
    )
    assert done.code == 78
    assert "--transactions MODULE:FUNCTION" in done.err


def _send(kafka: KafkaServer, topic: str, ids: list[str]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 0})
    for name in ids:
        producer.produce(topic, b"{}", key=name, headers=[("id", name.encode())])
    assert producer.flush(30) == 0


def _customers(database: Database) -> list[str]:
    with database._connection() as connection:
        return [
            dict(row)["customer"] for row in connection.execute("select customer from shop_order")
        ]
