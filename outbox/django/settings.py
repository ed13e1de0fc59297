"""The dictionary OUTBOX in Django's settings.

    OUTBOX = {
        # Where the tables are. Fixed once migrated: the tables do not move with them.
        "SCHEMA": None,             # PostgreSQL's schema; None: the search_path
        "TABLE_PREFIX": "",
        "DATABASES": ["default"],   # the aliases that have them; left out: the routers decide
        # Writing
        "MAX_MESSAGE_BYTES": 1_000_000,
        "SERIALIZER": "outbox.serialization.serializer.JsonSerializer",
        "LANES": ["bulk"],          # the lanes a message may name; left out: any
        # The commands. librdkafka's properties by their own names, the rest in capitals: NAME,
        # POLL_INTERVAL, LEASE, DRAIN_TIMEOUT and whatever else `outbox-relay config show` lists.
        "KAFKA": {"bootstrap.servers": "localhost:9092"},
        "RELAY": {"POLL_INTERVAL": 0.05},
    }

Everything may be left out, and so may the dictionary.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from outbox.config.keys import KEYS
from outbox.errors import ConfigurationError
from outbox.names import Names
from outbox.serialization.serializer import Serializer
from outbox.topic.topic import TopicSerializer
from outbox.writer.outbox import MAX_MESSAGE_BYTES, Outbox

NAME = "OUTBOX"

KNOWN = (
    "SCHEMA",
    "TABLE_PREFIX",
    "DATABASES",
    "MAX_MESSAGE_BYTES",
    "SERIALIZER",
    "LANES",
    "KAFKA",
    "RELAY",
)

#: What the commands know beside these: Django's own settings say where the database is.
RELAY_KEYS = {
    key.name.upper(): key
    for key in KEYS
    if key.name not in ("database_url", "schema", "table_prefix")
}


@dataclass(frozen=True, slots=True)
class OutboxSettings:
    """What OUTBOX says. `databases` is None where the routers alone decide."""

    names: Names
    databases: tuple[str, ...] | None
    max_message_bytes: int
    serializer: Serializer | TopicSerializer | None
    lanes: Collection[str] | None
    kafka: Mapping[str, object]
    relay: Mapping[str, object]


@lru_cache(maxsize=1)
def current() -> OutboxSettings:
    """Return the settings, or raise ConfigurationError for what makes no sense.

    Unknown keys are the business of a system check, with what was probably meant.
    """
    given = given_settings()
    return OutboxSettings(
        names=Names(_text(given, "SCHEMA"), _text(given, "TABLE_PREFIX") or ""),
        databases=_aliases(given),
        max_message_bytes=cast("int", given.get("MAX_MESSAGE_BYTES", MAX_MESSAGE_BYTES)),
        serializer=_serializer(given.get("SERIALIZER")),
        lanes=cast("Collection[str] | None", given.get("LANES")),
        kafka=_table(given, "KAFKA"),
        relay=_table(given, "RELAY"),
    )


def table_name(relation: str) -> str:
    """Return the name of a table as Django's `db_table` takes it.

    With settings that make no sense it is the plain one, so that Django gets as far as the system
    check that says so.
    """
    try:
        names = current().names
    except ConfigurationError:
        return relation
    return names[relation] if names.schema else f"{names.prefix}{relation}"


@lru_cache(maxsize=1)
def writer() -> Outbox:
    """Return the Outbox that these settings describe."""
    found = current()
    try:
        return Outbox(
            schema=found.names.schema,
            table_prefix=found.names.prefix,
            serializer=found.serializer,
            max_message_bytes=found.max_message_bytes,
            lanes=found.lanes,
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{NAME}: {error}") from error


def given_settings() -> Mapping[str, object]:
    """Return the dictionary as it was written, empty where there is none."""
    given: object = getattr(django_settings, NAME, {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{NAME} must be a dict, not {type(given).__name__}")
    return given


def unknown_keys(given: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return each key that means nothing, such as RELAY.LEAS, with a hint."""
    relay = given.get("RELAY")
    found = [(str(key), _meant(key, KNOWN)) for key in given if key not in KNOWN]
    if isinstance(relay, Mapping):
        strange = [key for key in relay if key not in RELAY_KEYS]
        found += [(f"RELAY.{key}", _meant(key, RELAY_KEYS)) for key in strange]
    return found


def _meant(key: object, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key).upper(), known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known are {', '.join(sorted(known))}."


def _text(given: Mapping[str, object], key: str) -> str | None:
    value = given.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{NAME}[{key!r}] must be text, not {type(value).__name__}")
    return value


def _table(given: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = given.get(key, {})
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{NAME}[{key!r}] must be a dict, not {type(value).__name__}")
    return value


def _aliases(given: Mapping[str, object]) -> tuple[str, ...] | None:
    value = given.get("DATABASES")
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Collection):
        raise ConfigurationError(f"{NAME}['DATABASES'] must be a list of aliases, not {value!r}")
    return tuple(value)


def _serializer(value: object) -> Serializer | TopicSerializer | None:
    """Return the serializer: an object, a class, or the dotted path of either."""
    try:
        found = import_string(value) if isinstance(value, str) else value
    except ImportError as error:
        raise ConfigurationError(f"{NAME}['SERIALIZER']: {error}") from error
    made = found() if isinstance(found, type) else found
    if made is None or isinstance(made, TopicSerializer):
        return made
    if not callable(getattr(made, "serialize", None)):
        raise ConfigurationError(f"{NAME}['SERIALIZER'] {value!r} has no method serialize()")
    return cast("Serializer", made)


def follow_changes() -> None:
    """Forget what was read when a test overrides the setting."""
    setting_changed.connect(_forget, dispatch_uid=f"{__name__}.forget")


def _forget(*, setting: str, **_: object) -> None:
    if setting == NAME:
        current.cache_clear()
        writer.cache_clear()
