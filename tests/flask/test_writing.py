"""Messages written in the requests of a Flask app."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy_lite import SQLAlchemy as LiteSQLAlchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from outbox import ConfigurationError, Message, MessageTooLarge, Outbox, UnknownLane
from outbox.database import DatabaseUrl
from outbox.flask import FlaskOutbox
from outbox.migrations import check, migrate
from outbox.names import Names
from tests.flask.conftest import sqlalchemy_url
from tests.flask.shop import create_app, events
from tests.integration.writing import Database


def test_a_message_is_written_with_the_request_s_own_changes(kind: str, database: Database) -> None:
    # Given an app made by its factory
    client = create_app(kind, sqlalchemy_url(database)).test_client()

    # When a request commits, and another fails after it has written its message
    answer = client.post("/orders", json={"customer": "ada"})
    failed = client.post("/orders", json={"customer": "nobody"})

    # Then there is the first one's message, and nothing of the other
    assert (answer.status_code, failed.status_code) == (200, 500)
    (row,) = database.rows()
    assert (str(row["id"]), row["topic"], row["key"]) == (answer.json["message"], "orders", "ada")


def test_apps_in_one_process_have_their_own_settings(sqlite: Database) -> None:
    # Given two apps with one extension
    migrate(DatabaseUrl.parse(sqlite.url), Names(prefix="second_"))
    first = create_app("flask-sqlalchemy", sqlite.url)
    second = create_app(
        "flask-sqlalchemy-lite", sqlite.url, OUTBOX_TABLE_PREFIX="second_", OUTBOX_LANES=["bulk"]
    )

    # When both write
    for app, customer in ((first, "ada"), (second, "ben")):
        app.test_client().post("/orders", json={"customer": customer})

    # Then each used its own tables and lanes
    assert [row["key"] for row in sqlite.rows()] == ["ada"]
    assert [row["key"] for row in sqlite.rows("second_outbox_message")] == ["ben"]
    with second.app_context(), pytest.raises(UnknownLane, match=r"'fast'.*bulk"):
        events.add(second.extensions["db"].session, "orders", {}, lane="fast")


def test_several_messages_and_the_limit_of_their_size(kind: str, sqlite: Database) -> None:
    app = create_app(kind, sqlite.url, OUTBOX_MAX_MESSAGE_BYTES=20)
    with app.app_context():
        session = app.extensions["db"].session
        events.add_all(session, [Message("orders", number) for number in range(3)])
        with pytest.raises(MessageTooLarge):
            events.add(session, "orders", "a text of some length")
        session.commit()
    assert len(sqlite.rows()) == 3


def test_asynchronous_sessions_are_written_to_as_well(database: Database) -> None:
    app = create_app("sqlalchemy", sqlalchemy_url(database))

    async def write() -> None:
        engine = database.async_engine()
        async with AsyncSession(engine) as session, session.begin():
            await events.add_async(session, "orders", {}, key="ada")
            await events.add_all_async(session, [Message("orders", {}, key="ben")])
        await engine.dispose()

    with app.app_context():
        asyncio.run(write())
    assert [row["key"] for row in database.rows()] == ["ada", "ben"]


def test_add_has_the_signature_of_an_outbox(sqlite: Database) -> None:
    app = create_app("sqlalchemy", sqlite.url)
    with app.app_context():
        names = ("add", "add_all", "cancel", "release")
        for name in (*names, *(f"{name}_async" for name in names)):
            own, original = getattr(events, name), getattr(Outbox(), name)
            assert inspect.signature(own) == inspect.signature(original)
    assert FlaskOutbox.add.__doc__ == Outbox.add.__doc__


def test_outside_an_app_context_flask_s_own_error_is_raised() -> None:
    with pytest.raises(RuntimeError, match="outside of application context"):
        events.add(object(), "orders", {})


def test_an_app_that_was_not_set_up_is_named() -> None:
    with Flask("bare").app_context(), pytest.raises(ConfigurationError, match=r"'bare'.*init_app"):
        events.add(object(), "orders", {})


def test_another_app_s_extension_is_not_mistaken_for_one_s_own(sqlite: Database) -> None:
    app = create_app("sqlalchemy", sqlite.url)
    with app.app_context(), pytest.raises(ConfigurationError, match="another FlaskOutbox"):
        FlaskOutbox().add(object(), "orders", {})
    with pytest.raises(ConfigurationError, match="already has a FlaskOutbox"):
        FlaskOutbox(app)


def test_the_extension_does_not_keep_an_app_alive() -> None:
    extension = FlaskOutbox()
    app = Flask("short-lived")
    extension.init_app(app)
    seen = weakref.ref(app)
    del app
    gc.collect()
    assert seen() is None


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoice"
    id: Mapped[int] = mapped_column(primary_key=True)


def _app_with_two_databases(tmp_path: Path, extension: FlaskOutbox) -> tuple[Flask, SQLAlchemy]:
    app = Flask("two", instance_path=str(tmp_path))
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///main.db"
    app.config["SQLALCHEMY_BINDS"] = {"archive": "sqlite:///archive.db"}
    extension.init_app(app)
    return app, SQLAlchemy(app, engine_options={"poolclass": NullPool})


def test_of_several_databases_none_is_guessed(tmp_path: Path) -> None:
    extension = FlaskOutbox()
    app, db = _app_with_two_databases(tmp_path, extension)
    with app.app_context(), pytest.raises(ConfigurationError, match="cannot know which one"):
        extension.add(db.session, "orders", {})


def test_of_several_databases_one_is_chosen_by_a_model(tmp_path: Path) -> None:
    migrate(DatabaseUrl.parse(f"sqlite:///{tmp_path}/main.db"), Names())
    extension = FlaskOutbox(bind_arguments={"mapper": Invoice})
    app, db = _app_with_two_databases(tmp_path, extension)
    with app.app_context():
        extension.add(db.session, "orders", {})
        db.session.commit()
    assert Database(f"sqlite:///{tmp_path}/main.db").topics() == ["orders"]


@pytest.mark.parametrize("known", ["flask-sqlalchemy", "flask-sqlalchemy-lite"])
def test_an_app_makes_its_own_tables(known: str, empty_database: Database) -> None:
    app = create_app(known, sqlalchemy_url(empty_database), OUTBOX_TABLE_PREFIX="own_")
    with app.app_context():
        events.migrate()
        events.migrate()
        events.add(app.extensions["db"].session, "orders", {})
        app.extensions["db"].session.commit()
    assert [row["topic"] for row in empty_database.rows("own_outbox_message")] == ["orders"]
    names = Names(prefix="own_")
    assert check(DatabaseUrl.parse(empty_database.url), names) == []


def test_a_database_in_memory_will_do_for_tests() -> None:
    app = Flask("memory")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite:///:memory:"
    db, extension = SQLAlchemy(app), FlaskOutbox(app)
    with app.app_context():
        extension.migrate()
        extension.add(db.session, "orders", {})
        db.session.rollback()
        message = extension.add(db.session, "orders", {})
        db.session.commit()
        ids = db.session.execute(text("select id from outbox_message")).scalars().all()
        db.session.remove()
        db.engine.dispose()
    assert ids == [str(message.id)]


def test_without_an_engine_of_its_own_an_app_is_told_what_to_do(tmp_path: Path) -> None:
    plain, lite = Flask("plain"), Flask("lite", instance_path=str(tmp_path))
    lite.config["SQLALCHEMY_ASYNC_ENGINES"] = {"default": "sqlite+aiosqlite:///shop.db"}
    LiteSQLAlchemy(lite)
    for app, words in ((plain, "neither Flask-SQLAlchemy nor"), (lite, "flask outbox migrate")):
        extension = FlaskOutbox(app)
        with app.app_context(), pytest.raises(ConfigurationError, match=words):
            extension.migrate()


def test_sqlalchemy_is_loaded_only_where_it_is_used(tmp_path: Path) -> None:
    migrate(DatabaseUrl.parse(f"sqlite:///{tmp_path}/shop.db"), Names())
    program = f"""
import sqlite3, sys
from flask import Flask
from outbox.flask import FlaskOutbox, transactions
import outbox.flask.commands  # what `flask` loads for every command
app = Flask("light")
events = FlaskOutbox(app)
with app.app_context(), sqlite3.connect({str(tmp_path / "shop.db")!r}) as connection:
    connection.execute("begin")
    events.add(connection, "orders", {{}})
heavy = {{"sqlalchemy", "psycopg", "confluent_kafka", "alembic", "django", "pytest"}}
sys.exit(f"loaded: {{heavy & sys.modules.keys()}}" if heavy & sys.modules.keys() else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
