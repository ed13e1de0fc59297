"""The app's settings for the commands that run in its process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from outbox.cli.invocation import Invocation
from outbox.config.host import HostSettings
from outbox.flask.current import state_of
from outbox.flask.database import database_url
from outbox.flask.settings import KAFKA, SOURCE
from outbox.flask.wording import in_flasks_words

if TYPE_CHECKING:
    from flask import Flask
    from flask.cli import ScriptInfo

_BROKER_AT = f'app.config["{KAFKA}"] = {{"bootstrap.servers": …}}'


class FlaskInvocation(Invocation):
    """A call of `flask outbox`; the app is loaded when its settings are asked for.

    So `--help` works without an app.
    """

    def __init__(self, script: ScriptInfo, environ: Mapping[str, str], *, debug: bool) -> None:
        self.debug = debug
        self._script = script
        self._environ = environ

    @cached_property
    def app(self) -> Flask:
        """The app that `flask` was told of."""
        return self._script.load_app()

    @cached_property
    def host(self) -> HostSettings:  # type: ignore[override]  # read alone, and as late as can be
        """What the app's config and its database say."""
        return host_settings(self.app, self._environ)


def host_settings(app: Flask, environ: Mapping[str, str]) -> HostSettings:
    """Return the app's settings.

    The database that `db` uses is a default: an address given on purpose, in the config or the
    environment, comes first.
    """
    state = state_of(app.extensions, app.name)
    settings = dict(state.settings.commands)
    if "database_url" not in settings and not _is_given(environ):
        with app.app_context():
            settings["database_url"] = database_url(app, state.bind_arguments)
    return HostSettings(settings, SOURCE, broker_at=_BROKER_AT, reword=in_flasks_words)


def _is_given(environ: Mapping[str, str]) -> bool:
    return any(environ.get(f"OUTBOX_DATABASE_URL{end}") for end in ("", "_FILE"))
