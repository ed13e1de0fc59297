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
from outbox.config.sources import Found, flattened, from_variables
from outbox.config.topic_rules import TopicRule


def find_registry(
    environ: Mapping[str, str], table: Mapping[str, object], file: str
) -> dict[str, Found]:
    """Return the properties of the registry's client; variables win over the file."""
    found = {
        name: Found(value, f"file {file}, table [registry]")
        for name, value in flattened("registry", table.get("registry", {}))
    }
    found |= from_variables(environ, VARIABLE_PREFIX, property_of, "registry.")
    return {
        name: Found(read_property(name, given.value, given.source), given.source)
        for name, given in found.items()
    }


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
