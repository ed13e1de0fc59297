"""The settings of encoding: the registry's properties, and the rules of topics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from outbox.config.registry_properties import (
    VARIABLE_PREFIX,
    property_of,
    read_property,
    shown_property,
)
from outbox.config.sources import Found, flattened, read_secret
from outbox.config.topic_rules import TopicRule
from outbox.errors import ConfigurationError


def find_registry(
    environ: Mapping[str, str], table: Mapping[str, object], file: str
) -> dict[str, Found]:
    """Return the properties of the registry's client; variables win over the file."""
    found = {
        name: Found(value, f"file {file}, table [registry]")
        for name, value in flattened("registry", table.get("registry", {}))
    }
    found |= _variables(environ)
    return {
        name: Found(read_property(name, given.value, given.source), given.source)
        for name, given in found.items()
    }


def _variables(environ: Mapping[str, str]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith(VARIABLE_PREFIX) or not value:
            continue
        name, is_file = property_of(variable)
        if name in found:
            raise ConfigurationError(
                f"registry.{name} is set twice, by {found[name].source} and by {variable}; "
                "give one of them"
            )
        text = read_secret(variable, value) if is_file else value
        found[name] = Found(text, f"environment {variable}")
    return found


def shown_registry(registry: Mapping[str, Found]) -> Iterator[tuple[str, Found]]:
    """Yield the registry's properties as `config show` prints them, without secrets."""
    for name, given in sorted(registry.items()):
        yield f"registry.{name}", Found(shown_property(name, given.value), given.source)


def shown_rules(rules: tuple[TopicRule, ...], file: str) -> Iterator[tuple[str, Found]]:
    """Yield what the file says of topics; defaults are left out."""
    for rule in rules:
        for type_, each in (("", rule), *rule.types):
            inner = f".{type_}" if type_ else ""
            for field in dataclasses.fields(each):
                value = getattr(each, field.name)
                if field.name not in ("topic", "types") and value != field.default:
                    name = f"topics.{rule.topic}{inner}.{field.name}"
                    yield name, Found(value, f"file {file}, table [topics]")
