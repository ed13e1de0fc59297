"""The Flask extension: an app's settings for the outbox, and `flask outbox …`.

SQLAlchemy is loaded when an app that uses it writes a message or runs a command, and not before.
"""

from __future__ import annotations

from outbox.errors import MissingExtra

try:
    import flask as _flask  # noqa: F401 - whether it can be imported is the question
except ImportError as error:
    raise MissingExtra(
        'outbox.flask needs Flask; run `pip install "outbox-relay[flask]"`'
    ) from error

from outbox.flask.consuming import transactions
from outbox.flask.extension import FlaskOutbox

__all__ = ["FlaskOutbox", "transactions"]
