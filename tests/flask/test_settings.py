"""OUTBOX_… keys of app.config, and the database of the app."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy_lite import SQLAlchemy as LiteSQLAlchemy
from sqlalchemy import URL

from outbox import ConfigurationError
from outbox.flask import FlaskOutbox
from outbox.flask.host import host_settings
from outbox.flask.settings import read_config


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("OUTBOX_SCHEMA", "No Good", "schema 'No Good'"),
        ("OUTBOX_SCHEMA", 5, "text"),
        ("OUTBOX_TABLE_PREFIX", "1st", "table_prefix '1st'"),
        ("OUTBOX_MAX_MESSAGE_BYTES", "many", "positive int, not 'many'"),
        ("OUTBOX_LANES", "bulk", "several names"),
        ("OUTBOX_LANES", 5, "iter"),
        ("OUTBOX_DATABASE_URL", "oracle://db", "oracle"),
        ("OUTBOX_LEASE", 0.1, "too short for a lease"),
        ("OUTBOX_POLL_INTERVAL", "soon", "'soon' is not a number"),
        ("OUTBOX_RELAY_NAME", "über", "not a valid name"),
        ("OUTBOX_DELIVERY", "maybe", "at-least-once"),
        ("OUTBOX_KAFKA", "localhost:9092", "dict of librdkafka's properties"),
        ("OUTBOX_KAFKA", {"acks": 1}, "acks .* cannot be set"),
        ("OUTBOX_KAFKA", {"oauth_cb": print}, "oauth_cb: must be text"),
        ("OUTBOX_KAFKA", {"linger.ms": None}, "linger.ms: must be text, a number"),
    ],
)
def test_a_wrong_value_is_refused_when_the_app_is_set_up(
    key: str, value: object, problem: str
) -> None:
    app = Flask("wrong")
    app.config[key] = value
    with pytest.raises(ConfigurationError, match=rf"^app\.config\['{key}'\].*{problem}"):
        FlaskOutbox(app)


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("OUTBOX_SHEMA", "did you mean 'OUTBOX_SCHEMA'"),
        ("OUTBOX_KAFKA_BOOTSTRAP_SERVERS", r'OUTBOX_KAFKA = {"bootstrap.servers": …}'),
        ("OUTBOX_XYZZY", "known are OUTBOX_DATABASE_URL"),
    ],
)
def test_an_unknown_key_is_warned_of_where_the_app_is_set_up(key: str, advice: str) -> None:
    app = Flask("unknown")
    app.config[key] = "x"
    with pytest.warns(UserWarning, match=key) as warned:
        FlaskOutbox().init_app(app)
    assert advice in str(warned[0].message)
    assert warned[0].filename == __file__


def test_a_setting_that_is_none_is_not_given() -> None:
    settings = read_config({"OUTBOX_SCHEMA": None, "OUTBOX_KAFKA": None, "DEBUG": True})
    assert (settings.writer, settings.commands) == ({}, {})


def test_python_s_truth_is_librdkafka_s() -> None:
    settings = read_config({"OUTBOX_KAFKA": {"enable.ssl.certificate.verification": False}})
    assert settings.commands == {"kafka.enable.ssl.certificate.verification": "false"}


POSTGRESQL = URL.create("postgresql+psycopg", "ada", "p@ss", "db.example", database="shop")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///shop.db", "sqlite:///{instance}/shop.db"),
        ("sqlite:////var/shop.db", "sqlite:////var/shop.db"),
        (POSTGRESQL, "postgresql+psycopg://ada:p%40ss@db.example/shop"),
    ],
)
@pytest.mark.parametrize("first", ["db", "outbox"])
def test_the_database_is_flask_sqlalchemy_s(
    given: Any, expected: str, first: str, tmp_path: Path
) -> None:
    app = Flask("app", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = given
    for extension in (SQLAlchemy(), FlaskOutbox())[:: 1 if first == "db" else -1]:
        extension.init_app(app)
    found = host_settings(app, {}).settings["database_url"]
    assert found == expected.format(instance=tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        "sqlite:///shop.db",
        URL.create("sqlite", database="shop.db"),
        {"url": "sqlite:///shop.db", "echo": False},
        {"url": {"drivername": "sqlite", "database": "shop.db"}},
    ],
)
def test_the_database_is_flask_sqlalchemy_lite_s(given: Any, tmp_path: Path) -> None:
    app = Flask("app", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_ENGINES"] = {"default": given, "other": "sqlite:///other.db"}
    LiteSQLAlchemy(app)
    FlaskOutbox(app)
    assert host_settings(app, {}).settings["database_url"] == f"sqlite:///{tmp_path}/shop.db"


def test_asynchronous_engines_will_do_for_the_commands(tmp_path: Path) -> None:
    app = Flask("app", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_ASYNC_ENGINES"] = {"default": "sqlite+aiosqlite:///shop.db"}
    LiteSQLAlchemy(app)
    FlaskOutbox(app)
    found = host_settings(app, {}).settings["database_url"]
    assert found == f"sqlite+aiosqlite:///{tmp_path}/shop.db"


def test_of_several_databases_the_commands_do_not_guess_either(tmp_path: Path) -> None:
    app = Flask("app", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///shop.db"
    app.config["SQLALCHEMY_BINDS"] = {"archive": "sqlite:///archive.db"}
    SQLAlchemy(app)
    FlaskOutbox(app)
    with pytest.raises(ConfigurationError, match="cannot know which one"):
        host_settings(app, {})


def test_without_a_default_database_the_error_says_what_to_do(tmp_path: Path) -> None:
    app = Flask("app", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_ENGINES"] = {"archive": "sqlite:///archive.db"}
    LiteSQLAlchemy(app)
    FlaskOutbox(app)
    with pytest.raises(ConfigurationError, match="no default database; set OUTBOX_DATABASE_URL"):
        host_settings(app, {})


def test_an_address_given_on_purpose_comes_before_the_app_s_database(tmp_path: Path) -> None:
    app = Flask("app", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///shop.db"
    SQLAlchemy(app)
    FlaskOutbox(app)
    # Given by the environment, which the command reads itself
    for variable in ("OUTBOX_DATABASE_URL", "OUTBOX_DATABASE_URL_FILE"):
        assert "database_url" not in host_settings(app, {variable: "x"}).settings

    # Given by the config
    other = Flask("other")
    other.config["OUTBOX_DATABASE_URL"] = POSTGRESQL
    FlaskOutbox(other)
    found = host_settings(other, {}).settings["database_url"]
    assert found == "postgresql+psycopg://ada:p%40ss@db.example/shop"


def test_the_inbox_has_the_app_s_tables() -> None:
    app = Flask("app")
    app.config.update(OUTBOX_SCHEMA="events", OUTBOX_TABLE_PREFIX="shop_", OUTBOX_LANES=["bulk"])
    extension = FlaskOutbox(app, bind_arguments={"bind": None})
    with app.app_context():
        inbox = extension.inbox("billing")
    assert '"events"."shop_inbox_message"' in inbox._insert.postgresql
    assert inbox._bind_arguments == {"bind": None}
