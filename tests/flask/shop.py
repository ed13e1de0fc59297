"""A Flask app as its users write it, with either SQLAlchemy extension or with none.

`KIND`, `DATABASE_URL`, `BROKER` and `TOPIC` in the environment say which and where.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, current_app, request
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy_lite import SQLAlchemy as LiteSQLAlchemy
from sqlalchemy import create_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import NullPool

from outbox.flask import FlaskOutbox
from outbox.inbox import ReceivedMessage

KINDS = ("flask-sqlalchemy", "flask-sqlalchemy-lite", "sqlalchemy")


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "shop_order"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


events = FlaskOutbox()


def create_app(
    kind: str | None = None, url: str | None = None, extension: FlaskOutbox = events, **config: Any
) -> Flask:
    """Make an app: `app.extensions["db"]` has its `session`."""
    app = Flask(__name__)
    _database(app, kind or os.environ["KIND"], url or os.environ["DATABASE_URL"])
    app.config["OUTBOX_KAFKA"] = {"bootstrap.servers": os.environ.get("BROKER", "localhost:9")}
    app.config.from_mapping(config)
    extension.init_app(app)
    app.post("/orders")(place)
    return app


def _database(app: Flask, kind: str, url: str) -> None:
    options = {"poolclass": NullPool}  # so that nothing stays open
    if kind == "flask-sqlalchemy":
        app.config["SQLALCHEMY_DATABASE_URI"] = url
        db: Any = SQLAlchemy(engine_options=options)
        db.init_app(app)
    elif kind == "flask-sqlalchemy-lite":
        app.config["SQLALCHEMY_ENGINES"] = {"default": {"url": url, **options}}
        db = LiteSQLAlchemy(app)
    else:
        app.config["OUTBOX_DATABASE_URL"] = url
        db = PlainDatabase(app, url)
    app.extensions["db"] = db
    with app.app_context():
        Base.metadata.create_all(db.session.get_bind())


class PlainDatabase:
    """What an app without an extension makes itself."""

    def __init__(self, app: Flask, url: str) -> None:
        self.factory = sessionmaker(create_engine(url, poolclass=NullPool))
        self.session = scoped_session(self.factory)
        app.teardown_appcontext(lambda _: self.session.remove())


def place() -> dict[str, Any]:
    """Take an order; the customer `nobody` makes it fail at the last moment."""
    customer = request.get_json()["customer"]
    session = current_app.extensions["db"].session
    order = Order(customer=customer)
    session.add(order)
    session.flush()
    topic = os.environ.get("TOPIC", "orders")
    message = events.add(session, topic, {"order": order.id}, key=customer)
    if customer == "nobody":
        raise LookupError(customer)
    session.commit()
    return {"message": str(message.id)}


def begin() -> Any:
    """Begin a transaction of an app without an extension."""
    return current_app.extensions["db"].factory.begin()


def keep(session: Session, message: ReceivedMessage) -> None:
    """Handle a message: the order of another shop is one of ours too."""
    assert message.key is not None
    session.add(Order(customer=f"{current_app.name}: {message.key.decode()}"))


def fail(_: Session, message: ReceivedMessage) -> None:
    """Handle a message badly."""
    raise RuntimeError(message.id)
