"""The statements that take the tables away again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from outbox.schema.source import steps

if TYPE_CHECKING:
    from outbox.database import Dialect
    from outbox.names import Names
    from outbox.schema.version import Component

_CREATED = re.compile(
    r"^create (table|sequence|function) ((?:out|in)box_\w+)(?! partition of)\b", re.MULTILINE
)

#: What leans on others goes first.
_ORDER = ("table", "sequence", "function")


def drop_statements(dialect: Dialect, names: Names, only: Component | None = None) -> list[str]:
    """Return one statement for everything that the migrations create, the newest first.

    Partitions go with their table, and a schema stays: others may use it.
    """
    text = "\n".join(step.template for step in steps(dialect, only))
    created = [(match[1], match[2]) for match in _CREATED.finditer(text)]
    return [
        f"drop {kind} if exists {names[name]}"
        for wanted in _ORDER
        for kind, name in reversed(created)
        if kind == wanted
    ]
