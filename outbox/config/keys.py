"""The settings that a command knows: their names, variables, and how a value is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from outbox.errors import ConfigurationError
from outbox.names import check_name


def text(value: object) -> str:
    """Return a text as it is."""
    if not isinstance(value, str):
        raise ConfigurationError("must be text")
    return value


def _seconds(value: object) -> float:
    try:
        seconds = float(cast("Any", value))
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not 0 < seconds < math.inf:
        raise ConfigurationError(f"{value!r} is not a number of seconds greater than 0")
    return seconds


def _rate(value: object) -> float:
    try:
        rate = float(cast("Any", value))
    except (TypeError, ValueError):
        rate = math.nan
    if isinstance(value, bool) or not 0 < rate < math.inf:
        raise ConfigurationError(f"{value!r} is no limit: use a number greater than 0")
    return rate


def _port(value: object) -> int:
    digits = isinstance(value, str) and value.isdecimal() and len(value) <= 5
    port = int(cast("str", value)) if digits else value
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535:
        raise ConfigurationError(f"{value!r} is not a port: use 0 to 65535")
    return port


def _lease(value: object) -> float:
    seconds = _seconds(value)
    if seconds < 1:
        raise ConfigurationError(f"{value!r} is too short for a lease: use at least 1 second")
    return seconds


def _relay_name(value: object) -> str:
    return check_name("relay", text(value))


def _delivery(value: object) -> str:
    if value not in ("at-least-once", "exactly-once"):
        raise ConfigurationError(
            f"{value!r} is not a way of delivery: use at-least-once or exactly-once"
        )
    return str(value)


def _wake_up(value: object) -> str:
    if value not in ("poll", "notify"):
        raise ConfigurationError(f"{value!r} is not a way to wake up: use poll or notify")
    return str(value)


def _cloudevents(value: object) -> str:
    if value not in ("off", "binary", "structured"):
        raise ConfigurationError(
            f"{value!r} is not a form of CloudEvents: use binary or structured"
        )
    return str(value)


def _source(value: object) -> str:
    source = text(value)
    if not source or not source.isprintable() or " " in source:
        raise ConfigurationError(f"{value!r} is no URI reference: use one such as /shop/orders")
    return source


def callback_name(value: object) -> str:
    """Return the checked name of a function, `module:function`."""
    module, colon, function = text(value).partition(":")
    if not (module and colon and function):
        raise ConfigurationError(f"{value!r} does not name a function: write module:function")
    return f"{module}:{function}"


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: its name in files, its variable, how it is read, its default."""

    name: str
    variable: str
    read: Callable[[object], object]
    default: object = None

    @property
    def flag(self) -> str:
        """The command line's name of it."""
        return "--" + self.name.replace("_", "-")


KEYS = (
    Key("database_url", "OUTBOX_DATABASE_URL", text),
    Key("database_password_callback", "OUTBOX_DATABASE_PASSWORD_CALLBACK", callback_name),
    Key("schema", "OUTBOX_SCHEMA", text),
    Key("table_prefix", "OUTBOX_TABLE_PREFIX", text, ""),
    Key("name", "OUTBOX_RELAY_NAME", _relay_name, "default"),
    Key("delivery", "OUTBOX_DELIVERY", _delivery, "at-least-once"),
    Key("poll_interval", "OUTBOX_POLL_INTERVAL", _seconds, 0.05),
    Key("wake_up", "OUTBOX_WAKE_UP", _wake_up, "poll"),
    Key("lease", "OUTBOX_LEASE", _lease, 10.0),
    Key("max_messages_per_second", "OUTBOX_MAX_MESSAGES_PER_SECOND", _rate),
    Key("max_bytes_per_second", "OUTBOX_MAX_BYTES_PER_SECOND", _rate),
    Key("connect_timeout", "OUTBOX_CONNECT_TIMEOUT", _seconds, 30.0),
    Key("drain_timeout", "OUTBOX_DRAIN_TIMEOUT", _seconds, 10.0),
    Key("http_host", "OUTBOX_HTTP_HOST", text, "127.0.0.1"),
    Key("http_port", "OUTBOX_HTTP_PORT", _port),
    Key("stall_timeout", "OUTBOX_STALL_TIMEOUT", _seconds, 60.0),
    Key("cloudevents", "OUTBOX_CLOUDEVENTS", _cloudevents, "off"),
    Key("cloudevents_source", "OUTBOX_CLOUDEVENTS_SOURCE", _source),
)
BY_NAME = {key.name: key for key in KEYS}
