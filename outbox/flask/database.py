"""The database of an app: that of its Flask-SQLAlchemy or Flask-SQLAlchemy-Lite.

Asked of the extension and not read from the config, since it knows best what it made of that:
URLs as text, objects or dicts, and SQLite files relative to the instance folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from outbox.errors import ConfigurationError
from outbox.transactions.binds import bind_arguments_for
from outbox.transactions.opening import kind_of

if TYPE_CHECKING:
    from flask import Flask
    from sqlalchemy import Engine
    from sqlalchemy.orm import Session


def database_url(app: Flask, bind_arguments: Mapping[str, object] | None) -> str | None:
    """Return the URL of the database that messages are written to; None without an extension.

    Needs an app context. Raises ConfigurationError where there are several and none is chosen,
    by the very rule that `add` follows.
    """
    if _extension(app) is None:
        return None
    return engine_of(app, bind_arguments).url.render_as_string(hide_password=False)


def engine_of(app: Flask, bind_arguments: Mapping[str, object] | None) -> Engine:
    """Return the engine of that database; ConfigurationError also without an extension."""
    db = _extension(app)
    asynchronous = _has_only_async_engines(db)
    session = _asynchronous_session(db) if asynchronous else session_of(app)
    return _engine(session, bind_arguments_for(session, bind_arguments) or {})


def session_of(app: Flask) -> Session:
    """Return the session that `db.session` stands for in the current app context.

    Raises ConfigurationError where the app has neither of the two extensions.
    """
    db = _extension(app)
    if db is None:
        raise ConfigurationError(
            f"the Flask app {app.name!r} has neither Flask-SQLAlchemy nor Flask-SQLAlchemy-Lite, "
            "so there is no db.session to begin transactions with; say what begins them: "
            "transactions(app, sessionmaker(engine).begin), or --transactions MODULE:FUNCTION"
        )
    session: Any = db.session
    found: Session = session() if kind_of(session).endswith("scoped_session") else session
    return found


def _extension(app: Flask) -> Any:
    db = app.extensions.get("sqlalchemy")
    return db if hasattr(type(db), "session") or hasattr(db, "session") else None


def _has_only_async_engines(db: Any) -> bool:
    return bool(getattr(db, "async_engines", None)) and not db.engines


def _asynchronous_session(db: Any) -> Session:
    # Not db.async_session: that one would be closed with the context, which needs an event loop.
    session: Session = db.async_sessionmaker().sync_session
    return session


def _engine(session: Session, bind_arguments: dict[str, Any]) -> Engine:
    from sqlalchemy.exc import UnboundExecutionError

    try:
        return session.get_bind(**bind_arguments).engine
    except UnboundExecutionError as error:
        raise ConfigurationError(
            "the app has no default database; set OUTBOX_DATABASE_URL, or say which one it is: "
            "FlaskOutbox(bind_arguments={'mapper': Order}) with a model of that database"
        ) from error
