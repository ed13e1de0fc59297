"""How the payloads of a topic are encoded: the tables [topics.…] of the file."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from outbox.errors import ConfigurationError

Format = Literal["avro", "protobuf", "json-schema", "none"]

#: The settings whose value is one of a few words.
_CHOICES = {
    "encode": ("avro", "protobuf", "json-schema", "none"),
    "subject_strategy": ("topic", "record", "topic-record"),
    "schema_id": ("value", "header"),
    "unknown_fields": ("refuse", "ignore"),
}


@dataclass(frozen=True, slots=True)
class TopicRule:
    """How the payloads of one topic, or of all that a pattern matches, are encoded.

    `schema`: a file, or for Protobuf a generated class as `module:Class`; None takes the one that
    the registry has, the newest or that of `version`. `message` is the full name of the message
    within a Protobuf schema. `register`: whether the relay may register the schema. `schema_id`:
    where the schema's id goes, in front of the value or into a header. `unknown_fields`: what
    happens to fields that the schema does not have. `assume_json`: whether a payload without a
    content type is JSON. `types`: rules for types of messages within the topic.
    """

    topic: str
    encode: Format
    schema: str | None = None
    message: str | None = None
    register: bool = False
    subject: str | None = None
    subject_strategy: Literal["topic", "record", "topic-record"] = "topic"
    version: int | None = None
    schema_id: Literal["value", "header"] = "value"
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    assume_json: bool = False
    content_type: str | None = None
    types: tuple[tuple[str, TopicRule], ...] = ()

    def __post_init__(self) -> None:
        where = f"topic {self.topic!r}"
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{where}: {name} = {getattr(self, name)!r} is not one of {', '.join(choices)}"
                )
        for name, kind in _KINDS.items():
            _check_kind(where, name, getattr(self, name), kind)
        self._check_sense(where)

    def _check_sense(self, where: str) -> None:
        if self.register and self.schema is None:
            raise ConfigurationError(f"{where}: register = true needs schema, what to register")
        if self.register and self.version is not None:
            raise ConfigurationError(f"{where}: version names a schema that is registered already")
        if self.schema is not None and self.version is not None and self.encode != "protobuf":
            raise ConfigurationError(f"{where}: schema and version are two schemas: give one")
        by_record = self.subject_strategy != "topic" and self.subject is None
        if by_record and self.schema is None and self.encode != "none":
            raise ConfigurationError(
                f"{where}: subject_strategy {self.subject_strategy!r} takes the subject from the "
                "schema's name: give schema, or the subject itself"
            )

    def for_type(self, type_: str | None) -> TopicRule:
        """Return the rule for messages of a type."""
        return next((rule for name, rule in self.types if name == type_), self)


_KINDS: dict[str, type] = {
    "schema": str,
    "message": str,
    "register": bool,
    "subject": str,
    "version": int,
    "assume_json": bool,
    "content_type": str,
}
_KEYS = tuple(field.name for field in dataclasses.fields(TopicRule) if field.name != "topic")


def _check_kind(where: str, name: str, value: object, kind: type) -> None:
    if value is None or type(value) is kind:
        return
    words = {str: "text", bool: "true or false", int: "a number"}
    raise ConfigurationError(f"{where}: {name} must be {words[kind]}, not {value!r}")


def find_rule(rules: tuple[TopicRule, ...], topic: str) -> TopicRule | None:
    """Return the rule of a topic: that of its name, else the first pattern that matches it."""
    by_name = (rule for rule in rules if rule.topic == topic)
    by_pattern = (rule for rule in rules if fnmatch.fnmatchcase(topic, rule.topic))
    return next(by_name, None) or next(by_pattern, None)


def read_rules(table: object, directory: Path) -> tuple[TopicRule, ...]:
    """Return the rules that the table [topics] holds; files are looked for in `directory`."""
    return tuple(_rule(topic, entry, directory) for topic, entry in _tables("topics", table))


def _rule(topic: str, table: Mapping[str, Any], directory: Path) -> TopicRule:
    _refuse_unknown(f'[topics."{topic}"]', table)
    own = {name: value for name, value in table.items() if name != "types"}
    if "encode" not in own:
        raise ConfigurationError(
            f'[topics."{topic}"] needs encode: one of {", ".join(_CHOICES["encode"])}'
        )
    types = tuple(
        (name, _made(topic, _of_type(topic, name, own, entry), directory))
        for name, entry in _tables(f'topics."{topic}".types', table.get("types", {}))
    )
    return dataclasses.replace(_made(topic, own, directory), types=types)


def _of_type(
    topic: str, name: str, own: Mapping[str, Any], table: Mapping[str, Any]
) -> dict[str, Any]:
    _refuse_unknown(f'[topics."{topic}".types."{name}"]', table)
    if "types" in table:
        raise ConfigurationError(f'[topics."{topic}".types."{name}"]: types cannot be nested')
    return {**own, **table}


def _made(topic: str, values: Mapping[str, Any], directory: Path) -> TopicRule:
    rule = TopicRule(topic=topic, **values)
    return dataclasses.replace(rule, schema=_schema(rule, directory))


def _schema(rule: TopicRule, directory: Path) -> str | None:
    if rule.schema is None or is_class(rule.schema):
        return rule.schema
    path = directory / rule.schema
    if not path.is_file():
        raise ConfigurationError(f"topic {rule.topic!r}: there is no schema file {path}")
    return str(path)


def is_class(schema: str) -> bool:
    """Say whether a schema is named as `module:Class`."""
    module, colon, name = schema.partition(":")
    return bool(colon) and name.isidentifier() and all(map(str.isidentifier, module.split(".")))


def _tables(name: str, table: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(table, dict):
        raise ConfigurationError(f'{name} must be a table of tables: [topics."orders"]')
    for key, entry in table.items():
        if not isinstance(entry, dict) or (
            entry
            and all(isinstance(value, dict) for value in entry.values())
            and "types" not in entry
        ):
            raise ConfigurationError(
                f"[{name}] must hold tables, each with the name of a topic or a pattern in quotes, "
                f'such as [topics."orders"] or [topics."orders.*"]; {key!r} is none'
            )
        yield key, cast("Mapping[str, Any]", entry)


def _refuse_unknown(where: str, table: Mapping[str, Any]) -> None:
    for name in table:
        if name not in _KEYS:
            close = difflib.get_close_matches(name.replace("-", "_"), _KEYS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(_KEYS)}"
            raise ConfigurationError(f"{where}: unknown setting {name!r}{hint}")
