"""Settings of the commands: flags, then the host, then the environment, a file, defaults.

Only the commands read these; the library takes arguments.
"""

from __future__ import annotations

import difflib
import importlib
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from outbox.config.encoding import find_registry, shown_registry, shown_rules
from outbox.config.host import NO_HOST, HostSettings, check_host
from outbox.config.kafka_properties import VARIABLE_PREFIX, check_property, is_secret, property_of
from outbox.config.keys import BY_NAME, KEYS, Key, callback_name
from outbox.config.lanes import LaneSetting, read_lanes
from outbox.config.retry_rules import RetryRules, read_retry
from outbox.config.sources import FILE_NAME, Found, flattened, from_variables, read_secret, why
from outbox.config.topic_rules import TopicRule, read_rules
from outbox.database import DatabaseUrl
from outbox.errors import ConfigurationError
from outbox.names import Names
from outbox.record import DeliveryMode

_LIBPQ = ("PGHOST", "PGHOSTADDR", "PGSERVICE", "PGDATABASE", "PGUSER", "PGPORT")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a command was told. Times in seconds.

    `kafka` holds librdkafka's properties as they were given, checked for those that are ours;
    `found` the source of every setting, the Kafka ones under `kafka.<property>`. `registry` holds
    the properties of the schema registry's client, `topics` how the payloads of topics are encoded,
    `retry` what becomes of messages that cannot be sent.
    """

    database_url: DatabaseUrl | None
    database_password_callback: str | None
    names: Names
    name: str
    delivery: DeliveryMode
    poll_interval: float
    wake_up: str
    lease: float
    max_messages_per_second: float | None
    max_bytes_per_second: float | None
    connect_timeout: float
    drain_timeout: float
    http_host: str
    http_port: int | None
    stall_timeout: float
    kafka: Mapping[str, object]
    found: Mapping[str, Found]
    directory: Path
    cloudevents: str = "off"
    cloudevents_source: str | None = None
    registry: Mapping[str, object] = field(default_factory=dict)
    topics: tuple[TopicRule, ...] = ()
    lanes: tuple[LaneSetting, ...] = ()
    broker_at: str | None = None
    retry: RetryRules = field(default_factory=RetryRules)

    def require_database(self) -> DatabaseUrl:
        """Return the database's URL, or raise ConfigurationError with all ways to give it."""
        if self.database_url is None:
            raise ConfigurationError(
                "no database: give --database-url, OUTBOX_DATABASE_URL (or OUTBOX_DATABASE_URL_FILE"
                f" with the name of a file), database_url in {FILE_NAME}, or libpq's variables such"
                " as PGHOST and PGDATABASE"
            )
        return self.database_url

    def password_callback(self) -> Callable[[], str] | None:
        """Return the function that gives the database's password, if one is named."""
        if self.database_password_callback is None:
            return None
        return cast("Callable[[], str]", self._function(self.database_password_callback))

    def kafka_properties(self) -> dict[str, object]:
        """Return the properties for a producer, with functions in place of their names.

        Raises ConfigurationError, with all ways to give it, when there is no broker.
        """
        if not self.kafka.keys() & {"bootstrap.servers", "metadata.broker.list"}:
            first = f"{self.broker_at}, " if self.broker_at else ""
            raise ConfigurationError(
                f"no broker: give {first}-X bootstrap.servers=HOST:PORT, "
                'OUTBOX_KAFKA_BOOTSTRAP_SERVERS, or "bootstrap.servers" in the table [kafka] of '
                f"{FILE_NAME}"
            )
        properties = dict(self.kafka)
        if "oauth_cb" in properties:
            properties["oauth_cb"] = self._function(callback_name(properties["oauth_cb"]))
        return properties

    def make_importable(self) -> None:
        """Let modules be imported from the directory that the command was called in.

        A command's path begins with the directory of its own program.
        """
        if str(self.directory) not in sys.path:
            sys.path.insert(0, str(self.directory))

    def _function(self, name: str) -> object:
        module, _, function = name.partition(":")
        self.make_importable()
        try:
            found: object = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"callback {name!r} cannot be imported: {error}") from error
        if not callable(found):
            raise ConfigurationError(f"callback {name!r} is not a function")
        return found

    def shown(self) -> list[tuple[str, object, str]]:
        """Return name, value and source of every setting, with secrets hidden."""
        return [
            (name, _hidden(name, found.value), found.source) for name, found in self.found.items()
        ]


def _hidden(name: str, value: object) -> object:
    if name == "database_url" and value is not None:
        return DatabaseUrl.parse(str(value)).redacted
    return "***" if name.startswith("kafka.") and is_secret(name) else value


def load(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    directory: Path,
    host: HostSettings = NO_HOST,
) -> Settings:
    """Return the settings, or raise ConfigurationError naming the value and where it came from.

    `flags`: by the names of KEYS, None where not given; besides `config` (a file to use instead of
    the one in `directory`) and `kafka` (a sequence of `property=value`). `host`: what the framework
    knows in whose process the command runs.
    """
    file, table = _read_file(flags.get("config"), directory)
    check_host(host)
    found = {key.name: _find(key, flags, host, environ, table, file) for key in KEYS}
    kafka = _kafka(flags, host, environ, table, file)
    found |= {f"kafka.{name}": given for name, given in sorted(kafka.items())}
    values: dict[str, Any] = {name: entry.value for name, entry in found.items()}
    registry = find_registry(environ, table, file)
    topics = _rules(table, directory / file)
    lanes = _lanes(table, directory / file)
    found |= {
        f"lanes.{lane.name}": Found(
            f"priority {lane.priority}, shards {lane.shards}", f"file {file}"
        )
        for lane in lanes
    }
    retry = _retry(table, file)
    found |= dict((*shown_registry(registry), *shown_rules(topics, file)))
    found |= {name: Found(value, f"file {file}") for name, value in retry.shown()}
    return Settings(
        database_url=_url(found["database_url"]),
        database_password_callback=values["database_password_callback"],
        names=Names(values["schema"], values["table_prefix"]),
        name=values["name"],
        delivery=values["delivery"],
        poll_interval=values["poll_interval"],
        wake_up=values["wake_up"],
        lease=values["lease"],
        max_messages_per_second=values["max_messages_per_second"],
        max_bytes_per_second=values["max_bytes_per_second"],
        connect_timeout=values["connect_timeout"],
        drain_timeout=values["drain_timeout"],
        http_host=values["http_host"],
        http_port=values["http_port"],
        stall_timeout=values["stall_timeout"],
        kafka={name: given.value for name, given in kafka.items()},
        found=found,
        directory=directory,
        cloudevents=values["cloudevents"],
        cloudevents_source=values["cloudevents_source"],
        registry={name: given.value for name, given in registry.items()},
        topics=topics,
        lanes=lanes,
        broker_at=host.broker_at,
        retry=retry,
    )


def _rules(table: Mapping[str, object], file: Path) -> tuple[TopicRule, ...]:
    try:
        return read_rules(table.get("topics", {}), file.parent)
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _lanes(table: Mapping[str, object], file: Path) -> tuple[LaneSetting, ...]:
    try:
        return read_lanes(table.get("lanes", {}))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _retry(table: Mapping[str, object], file: str) -> RetryRules:
    try:
        return read_retry(table.get("retry", {}))
    except ConfigurationError as error:
        raise ConfigurationError(f"{file}: {error}") from error


def _url(found: Found) -> DatabaseUrl | None:
    return None if found.value is None else DatabaseUrl.parse(str(found.value))


def _find(
    key: Key,
    flags: Mapping[str, object],
    host: HostSettings,
    environ: Mapping[str, str],
    table: Mapping[str, object],
    file: str,
) -> Found:
    given = _given(key, flags, host, environ, table, file)
    if given is None:
        return Found(key.default, "default")
    try:
        return Found(key.read(given.value), given.source)
    except ConfigurationError as error:
        raise ConfigurationError(f"{key.name} ({given.source}): {error}") from error


def _given(
    key: Key,
    flags: Mapping[str, object],
    host: HostSettings,
    environ: Mapping[str, str],
    table: Mapping[str, object],
    file: str,
) -> Found | None:
    if flags.get(key.name) is not None:
        return Found(flags[key.name], f"flag {key.flag}")
    if host.settings.get(key.name) is not None:
        return Found(host.settings[key.name], host.source)
    if variable := _variable(key.variable, environ):
        return variable
    if key.name in table:
        return Found(table[key.name], f"file {file}")
    if key.name == "database_url" and any(environ.get(name) for name in _LIBPQ):
        return Found("", "environment PG*")
    return None


def _variable(name: str, environ: Mapping[str, str]) -> Found | None:
    """Return a variable's value, or that of the file its `_FILE` variant names. Empty is unset."""
    value, path = environ.get(name), environ.get(f"{name}_FILE")
    if value and path:
        raise ConfigurationError(f"both {name} and {name}_FILE are set; give one of them")
    if path:
        return Found(read_secret(f"{name}_FILE", path), f"environment {name}_FILE")
    return Found(value, f"environment {name}") if value else None


def _kafka(
    flags: Mapping[str, object],
    host: HostSettings,
    environ: Mapping[str, str],
    table: Mapping[str, object],
    file: str,
) -> dict[str, Found]:
    """Return the properties of all sources, the strongest last."""
    found: dict[str, Found] = {}
    for name, value in flattened("kafka", table.get("kafka", {})):
        found[name] = Found(value, f"file {file}, table [kafka]")
    found |= from_variables(environ, VARIABLE_PREFIX, property_of)
    found |= {name: Found(value, host.source) for name, value in host.kafka.items()}
    for assignment in cast("Sequence[str]", flags.get("kafka") or ()):
        name, equals, text = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigurationError(f"-X {name!r}: write property=value")
        found[name.strip()] = Found(text, "flag -X")
    for name, given in found.items():
        check_property(name, given.value, given.source)
    return found


def _read_file(config: object, directory: Path) -> tuple[str, Mapping[str, object]]:
    """Return the name and the contents of the file; empty where there is none."""
    path = directory / FILE_NAME if config is None else directory / str(config)
    if config is None and not path.exists():
        return FILE_NAME, {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {why(error)}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    _refuse_unknown(path, table)
    return path.name if config is None else str(config), table


def _refuse_unknown(path: Path, table: Mapping[str, object]) -> None:
    known = [*BY_NAME, "kafka", "registry", "topics", "lanes", "retry"]
    for name in table:
        if name not in known:
            close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            raise ConfigurationError(f"{path}: unknown setting {name!r}{hint}")
