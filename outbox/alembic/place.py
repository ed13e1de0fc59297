"""Where our tables are, as a migration says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from alembic.util import CommandError

from outbox.errors import ConfigurationError
from outbox.names import Names
from outbox.schema.source import COMPONENTS, check_names, steps

if TYPE_CHECKING:
    from outbox.database import Dialect
    from outbox.schema.source import Step
    from outbox.schema.version import Component


class MigrationRefused(ConfigurationError, CommandError):
    """The migration cannot be made."""


@dataclass(frozen=True, slots=True)
class Place:
    """A schema and a prefix, and which side of them."""

    names: Names
    only: Component | None = None

    @classmethod
    def of(cls, schema: str | None, table_prefix: str, only: str | None) -> Place:
        """Return the place, or raise MigrationRefused for what no place can be called."""
        if only not in (None, *COMPONENTS):
            raise MigrationRefused(f"only {only!r} is not known: use 'outbox', 'inbox' or None")
        try:
            return cls(Names(schema, table_prefix), only)
        except ConfigurationError as error:
            raise MigrationRefused(str(error)) from error

    @property
    def components(self) -> tuple[Component, ...]:
        """Return the sides that are meant."""
        return tuple(part for part in COMPONENTS if self.only in (None, part))

    def arguments(self) -> dict[str, str]:
        """Return what a call must name to mean this place."""
        given = {
            "schema": self.names.schema,
            "table_prefix": self.names.prefix or None,
            "only": self.only,
        }
        return {name: value for name, value in given.items() if value is not None}


def known_dialect(name: str, place: Place) -> Dialect:
    """Return the dialect, or raise MigrationRefused where the tables cannot be on it."""
    if name not in ("postgresql", "sqlite"):
        raise MigrationRefused(
            f"outbox-relay has no tables for {name}; it knows PostgreSQL, SQLite"
        )
    dialect = cast("Dialect", name)
    try:
        check_names(dialect, place.names)
    except ConfigurationError as error:
        raise MigrationRefused(str(error)) from error
    return dialect


def newest(dialect: Dialect) -> int:
    """Return the latest version there is a migration to."""
    return max(step.version for step in steps(dialect))


def level(dialect: Dialect, component: Component, version: int) -> int:
    """Return the version a component's own tables say at a version of the whole.

    A version may change one side alone.
    """
    own = [step.version for step in steps(dialect, component) if step.version <= version]
    return max(own, default=0)


def between(dialect: Dialect, component: Component, above: int, to: int) -> list[Step]:
    """Return the migrations that lead from one version to another."""
    return [step for step in steps(dialect, component) if above < step.version <= to]


def check_version(dialect: Dialect, version: int) -> None:
    """Raise MigrationRefused for a version this code has no migration to."""
    if not isinstance(version, int) or not 1 <= version <= newest(dialect):
        raise MigrationRefused(
            f"version {version!r} of the outbox tables is not known to this outbox-relay, which "
            f"has 1 to {newest(dialect)}; correct the migration or upgrade outbox-relay"
        )
