"""Where a setting can come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from outbox.errors import ConfigurationError

FILE_NAME = "outbox.toml"


@dataclass(frozen=True, slots=True)
class Found:
    """A value and where it came from."""

    value: object
    source: str


def read_secret(variable: str, path: str) -> str:
    """Return what the file holds that a `_FILE` variable names."""
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{variable}: {path} cannot be read: {why(error)}") from error


def why(error: OSError | UnicodeDecodeError) -> str:
    """Return the reason alone: who speaks of the file has named it already."""
    return str(getattr(error, "strerror", None) or error)


def flattened(name: str, table: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted names: TOML reads `bootstrap.servers = …` as a table within a table."""
    if not isinstance(table, dict):
        raise ConfigurationError(f"{name} in {FILE_NAME} must be a table: [{name}]")
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flattened(name, value, f"{prefix}{key}.")
        elif isinstance(value, bool):
            yield prefix + key, str(value).lower()
        elif isinstance(value, str | int | float):
            yield prefix + key, value
        else:
            raise ConfigurationError(
                f"{name}.{prefix}{key} must be text, a number or true or false"
            )
