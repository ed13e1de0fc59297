"""The extension: one object for the whole program, settings and state with each app."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from outbox.errors import ConfigurationError
from outbox.flask.current import EXTENSION, AppState, OfCurrentApp, current_state
from outbox.flask.settings import read_config, unknown_keys
from outbox.writer.outbox import Outbox

if TYPE_CHECKING:
    from flask import Flask

    from outbox.inbox.inbox import Inbox
    from outbox.serialization.serializer import Serializer
    from outbox.topic.topic import TopicSerializer


class FlaskOutbox:
    """Writes messages with the settings of the current Flask app.

    Make one, without an app, where your other extensions are, and call `init_app` in the app
    factory. Settings are `OUTBOX_…` keys of `app.config`; what is code is given here: `serializer`
    and `bind_arguments` are those of Outbox. With several databases, `{"mapper": Order}` says that
    messages go where the model Order is.

    `add`, `add_all`, `cancel`, `release` and their asynchronous twins are Outbox's own. Outside an
    app context they raise Flask's RuntimeError.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        serializer: Serializer | TopicSerializer | None = None,
        bind_arguments: Mapping[str, object] | None = None,
    ) -> None:
        self._serializer = serializer
        self._bind_arguments = bind_arguments
        if app is not None:
            self.init_app(app)

    add = OfCurrentApp(lambda events: events.add)
    add_all = OfCurrentApp(lambda events: events.add_all)
    add_async = OfCurrentApp(lambda events: events.add_async)
    add_all_async = OfCurrentApp(lambda events: events.add_all_async)
    cancel = OfCurrentApp(lambda events: events.cancel)
    cancel_async = OfCurrentApp(lambda events: events.cancel_async)
    release = OfCurrentApp(lambda events: events.release)
    release_async = OfCurrentApp(lambda events: events.release_async)

    def init_app(self, app: Flask) -> None:
        """Read the app's settings and give it the commands `flask outbox …`.

        Raises ConfigurationError for a wrong value, naming its key, and warns of `OUTBOX_…` keys
        that nothing reads. The config counts as it is now; where the database is, is asked later.
        """
        from outbox.flask.commands import commands

        if EXTENSION in app.extensions:
            raise ConfigurationError(
                f"the Flask app {app.name!r} already has a FlaskOutbox: import and use that one"
            )
        for sentence in unknown_keys(app.config):
            warnings.warn(sentence, UserWarning, stacklevel=2)
        app.extensions[EXTENSION] = self._state(app.config)
        # `flask` has them by an entry point, also without an app; this is for app.test_cli_runner()
        app.cli.add_command(commands)

    def _state(self, config: Mapping[str, object]) -> AppState:
        settings = read_config(config)
        events = Outbox(
            **settings.writer, serializer=self._serializer, bind_arguments=self._bind_arguments
        )
        return AppState(self, events, settings, self._bind_arguments)

    def migrate(self) -> None:
        """Create or upgrade the tables in the current app's database, as `db.create_all()` does.

        The same as `flask outbox migrate`, but on the app's own engine: so it serves tests, also
        with SQLite in memory. Raises ConfigurationError without Flask-SQLAlchemy or
        Flask-SQLAlchemy-Lite, and with asynchronous engines alone.
        """
        from outbox.flask.tables import migrate_app

        state = current_state(self)
        migrate_app(state.settings.tables, state.bind_arguments)

    def inbox(self, consumer: str, /) -> Inbox:
        """Return an Inbox with the current app's tables and database."""
        from outbox.inbox.inbox import Inbox

        state = current_state(self)
        return Inbox(consumer, bind_arguments=state.bind_arguments, **state.settings.tables)
