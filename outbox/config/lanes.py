"""The lanes of the log as the settings have them: the tables [lanes.…] of the file."""

from __future__ import annotations

from dataclasses import dataclass

from outbox.errors import ConfigurationError
from outbox.names import check_name

_KINDS = {"priority": int, "shards": int}


@dataclass(frozen=True, slots=True)
class LaneSetting:
    """One table: what of a lane is said there."""

    name: str
    priority: int = 0
    shards: int = 1


def read_lanes(table: object) -> tuple[LaneSetting, ...]:
    """Return the lanes that the table [lanes] holds, or raise ConfigurationError."""
    if not isinstance(table, dict):
        raise ConfigurationError("lanes must be a table of tables: [lanes.urgent]")
    return tuple(_lane(name, entry) for name, entry in table.items())


def _lane(name: str, entry: object) -> LaneSetting:
    check_name("lane", name)
    if not isinstance(entry, dict):
        raise ConfigurationError(f"[lanes] must hold tables such as [lanes.{name}]")
    for key, value in entry.items():
        if key not in _KINDS:
            raise ConfigurationError(
                f"[lanes.{name}]: unknown setting {key!r}; known are {', '.join(_KINDS)}"
            )
        if type(value) is not _KINDS[key]:
            raise ConfigurationError(f"[lanes.{name}]: {key} must be a number, not {value!r}")
    return LaneSetting(name, **entry)
