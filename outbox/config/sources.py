"""Where a setting can come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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


def from_variables(
    environ: Mapping[str, str],
    prefix: str,
    property_of: Callable[[str], tuple[str, bool]],
    said_as: str = "",
) -> dict[str, Found]:
    """Return the properties that variables with a prefix set; an empty variable is unset.

    `property_of` tells of a variable the property, and whether it names a file with the value;
    `said_as` stands before a property in errors.
    """
    found: dict[str, Found] = {}
    for variable, value in sorted(environ.items()):
        if not variable.startswith(prefix) or not value:
            continue
        name, is_file = property_of(variable)
        if name in found:
            raise ConfigurationError(
                f"{said_as}{name} is set twice, by {found[name].source} and by {variable}; "
                "give one of them"
            )
        text = read_secret(variable, value) if is_file else value
        found[name] = Found(text, f"environment {variable}")
    return found


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
