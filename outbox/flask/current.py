"""The state an app has, and methods that are the current app's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from flask import current_app

from outbox.errors import ConfigurationError
from outbox.flask.settings import AppSettings
from outbox.writer.outbox import Outbox

EXTENSION = "outbox"

Method = TypeVar("Method")


@dataclass(frozen=True, slots=True)
class AppState:
    """What `app.extensions["outbox"]` holds.

    `owner` is the extension that was initialised for the app: another one has another serializer
    or other bind arguments.
    """

    owner: object
    events: Outbox
    settings: AppSettings
    bind_arguments: Mapping[str, object] | None


def state_of(extensions: Mapping[str, object], app_name: str) -> AppState:
    """Return an app's state, or raise ConfigurationError where there is none."""
    state = extensions.get(EXTENSION)
    if not isinstance(state, AppState):
        raise ConfigurationError(
            f"the Flask app {app_name!r} has no outbox: call init_app(app) of a FlaskOutbox "
            "where the app is made"
        )
    return state


def current_state(owner: object) -> AppState:
    """Return the state of the current app; Flask's RuntimeError where there is no app context."""
    state = state_of(current_app.extensions, current_app.name)
    if state.owner is not owner:
        raise ConfigurationError(
            f"the Flask app {current_app.name!r} was set up with another FlaskOutbox: import and "
            "use that one"
        )
    return state


class OfCurrentApp(Generic[Method]):
    """A method of the current app's Outbox, with its own signature, overloads included."""

    def __init__(self, method: Callable[[Outbox], Method]) -> None:
        self._method = method

    def __set_name__(self, owner: type, name: str) -> None:
        self.__doc__ = getattr(Outbox, name).__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> OfCurrentApp[Method]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Method: ...

    def __get__(self, instance: object, owner: type) -> OfCurrentApp[Method] | Method:
        return self if instance is None else self._method(current_state(instance).events)
