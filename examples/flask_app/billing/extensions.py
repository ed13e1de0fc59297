"""The extensions, made without an app."""

from __future__ import annotations

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from outbox.flask import FlaskOutbox


class Base(DeclarativeBase):
    """What the models are made of."""


db = SQLAlchemy(model_class=Base)
events = FlaskOutbox()
