"""The SQL files, and the statements made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from outbox.errors import ConfigurationError
from outbox.schema.grants import grants
from outbox.schema.version import Component

if TYPE_CHECKING:
    from collections.abc import Sequence

    from outbox.database import Dialect
    from outbox.names import Names

_FILE = re.compile(r"(\d{4})_(outbox|inbox)\w*\.sql")


@dataclass(frozen=True, slots=True)
class Step:
    """One migration: it brings the tables of `component` to `version`."""

    name: str
    component: Component
    version: int
    template: str = field(repr=False)

    def sql(self, names: Names) -> str:
        """Return the statements with these names in them."""
        return names.render(self.template)


def steps(dialect: Dialect, only: Component | None = None) -> list[Step]:
    """Return all migrations in order, or those of one component."""
    return [step for step in _load(dialect) if only in (None, step.component)]


@cache
def _load(dialect: Dialect) -> tuple[Step, ...]:
    # By number, the outbox first: the inbox may lean on it one day, never the other way round.
    found = [_step(path) for path in sorted(directory(dialect).glob("*.sql"))]
    return tuple(sorted(found, key=lambda step: (step.version, step.component != "outbox")))


def _step(path: Path) -> Step:
    match = _FILE.fullmatch(path.name)
    if match is None:
        raise ConfigurationError(
            f"{path}: a migration is called NNNN_outbox….sql or NNNN_inbox….sql"
        )
    component: Component = "outbox" if match[2] == "outbox" else "inbox"
    return Step(path.stem, component, int(match[1]), path.read_text(encoding="utf-8"))


def directory(dialect: Dialect) -> Path:
    """Return where the SQL files of a dialect are.

    A wheel carries them in the package. A checkout, or an editable install, which sees the checkout
    alone, has them beside it.
    """
    package = Path(__file__).parent.parent
    places = [package / "_migrations", package.parent / "migrations"]
    for place in places:
        if (place / dialect).is_dir():
            return place / dialect
    raise ConfigurationError(
        f"the SQL files of outbox-relay are missing from its installation (looked in "
        f"{places[0]} and {places[1]}); install it again"
    )


def sql(
    dialect: Dialect,
    names: Names,
    *,
    only: Component | None = None,
    writer_role: str | None = None,
    relay_role: str | None = None,
) -> str:
    """Return the whole DDL as one transaction, for psql, sqlite3 or a migration of one's own.

    The same arguments always give the same text. Roles are granted what they need.
    """
    check_names(dialect, names)
    check_roles(dialect, writer_role, relay_role)
    parts = ["begin immediate;" if dialect == "sqlite" else "begin;"]
    if names.schema:
        parts.append(f'create schema if not exists "{names.schema}";')
    parts += [step.sql(names).strip() for step in steps(dialect, only)]
    if granted := grants(names, writer_role=writer_role, relay_role=relay_role):
        parts.append(granted.strip())
    return "\n\n".join([*parts, "commit;"]) + "\n"


def check_names(dialect: Dialect, names: Names) -> None:
    """Raise ConfigurationError for names the dialect cannot have."""
    if dialect == "sqlite" and names.schema:
        raise ConfigurationError(
            f"schema {names.schema!r}: SQLite has no schemas; use table_prefix instead"
        )


def check_roles(dialect: Dialect, *roles: str | None) -> None:
    """Raise ConfigurationError for roles where there are none."""
    if dialect == "sqlite" and any(roles):
        raise ConfigurationError("SQLite has no roles to grant anything to")


def tables(dialect: Dialect, component: Component) -> Sequence[str]:
    """Return the plain names of the relations the migrations of `component` create."""
    return _created("table|sequence", dialect, component)


def functions(dialect: Dialect, component: Component) -> Sequence[str]:
    """Return the plain names of the functions the migrations of `component` create."""
    return _created("function", dialect, component)


def _created(kinds: str, dialect: Dialect, component: Component) -> Sequence[str]:
    created = re.compile(rf"^create (?:{kinds}) ((?:out|in)box_\w+)", re.MULTILINE)
    found = [name for step in steps(dialect, component) for name in created.findall(step.template)]
    return list(dict.fromkeys(found))


COMPONENTS: tuple[Component, ...] = get_args(Component)
