"""What `app.config` says about the outbox: OUTBOX_… keys, checked when the app is set up."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from outbox.config.kafka_properties import VARIABLE_PREFIX, check_property, property_of
from outbox.config.keys import KEYS, Key, callback_name
from outbox.database import DatabaseUrl
from outbox.errors import ConfigurationError, OutboxError
from outbox.writer.outbox import Outbox

SOURCE = "app.config"
KAFKA = "OUTBOX_KAFKA"
_PREFIX = "OUTBOX_"

#: The config keys for what an Outbox is made of.
_WRITER = {
    "OUTBOX_SCHEMA": "schema",
    "OUTBOX_TABLE_PREFIX": "table_prefix",
    "OUTBOX_MAX_MESSAGE_BYTES": "max_message_bytes",
    "OUTBOX_LANES": "lanes",
}

_KNOWN = list(dict.fromkeys([*(key.variable for key in KEYS), *_WRITER, KAFKA]))

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class AppSettings:
    """The settings of one app.

    `writer`: arguments for an Outbox. `commands`: what HostSettings takes.
    """

    writer: Mapping[str, Any]
    commands: Mapping[str, object]

    @property
    def tables(self) -> dict[str, Any]:
        """Return the arguments that say where the tables are."""
        return {name: self.writer[name] for name in ("schema", "table_prefix") & self.writer.keys()}


def read_config(config: Mapping[str, object]) -> AppSettings:
    """Return the settings, or raise ConfigurationError naming the key that is wrong.

    None is as good as not given.
    """
    given = {name: value for name, value in config.items() if value is not None}
    commands = {key.name: _checked(key, given[key.variable]) for key in KEYS if _has(given, key)}
    return AppSettings(
        writer={
            argument: _writer_argument(name, argument, given[name])
            for name, argument in _WRITER.items()
            if name in given
        },
        commands=commands | _kafka(given.get(KAFKA, {})),
    )


def unknown_keys(config: Mapping[str, object]) -> Iterator[str]:
    """Yield a sentence for each OUTBOX_… key that nothing reads."""
    for name in config:
        if name.startswith(_PREFIX) and name not in _KNOWN:
            yield f"app.config[{name!r}] is no setting of outbox-relay: {_advice(name)}"


def _advice(name: str) -> str:
    close = difflib.get_close_matches(name, _KNOWN, n=1)
    if name.startswith(VARIABLE_PREFIX) and not close:
        return f'in app.config, write {KAFKA} = {{"{property_of(name)[0]}": …}}'
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_KNOWN)}"


def _has(given: Mapping[str, object], key: Key) -> bool:
    return key.variable in given


def _checked(key: Key, value: object) -> object:
    if key.name == "database_url":
        value = url_text(value)
    try:
        key.read(value)
        if key.name == "database_url":
            DatabaseUrl.parse(str(value))
    except ConfigurationError as error:
        raise _wrong(key.variable, error) from error
    return value


def url_text(value: object) -> object:
    """Return the text of a SQLAlchemy URL, password included; anything else as it is."""
    render = getattr(value, "render_as_string", None)
    return value if render is None else render(hide_password=False)


def _writer_argument(name: str, argument: str, value: Value) -> Value:
    try:
        Outbox(**{argument: value})  # type: ignore[arg-type]  # it checks its arguments itself
    except (OutboxError, TypeError) as error:
        raise _wrong(name, error) from error
    return value


def _kafka(value: object) -> dict[str, object]:
    if not isinstance(value, Mapping):
        raise _wrong(
            KAFKA,
            "must be a dict of librdkafka's properties, for instance "
            f'{{"bootstrap.servers": "localhost:9092"}}, not {type(value).__name__}',
        )
    return {f"kafka.{name}": _kafka_value(str(name), entry) for name, entry in value.items()}


def _kafka_value(name: str, value: object) -> object:
    try:
        check_property(name, value, f"{SOURCE}[{KAFKA!r}]")
        if name == "oauth_cb":
            return callback_name(value)
    except ConfigurationError as error:
        raise _wrong(KAFKA, f"{name}: {error}") from error
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return value
    raise _wrong(KAFKA, f"{name}: must be text, a number or True or False, not {value!r}")


def _wrong(name: str, problem: object) -> ConfigurationError:
    return ConfigurationError(f"{SOURCE}[{name!r}]: {problem}")
