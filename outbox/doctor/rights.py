"""The rights that a role needs, taken from the very GRANT statements that `migrate` runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, cast

from outbox.names import Names
from outbox.schema.grants import grants
from outbox.store.diagnosis import Right

_GRANT = re.compile(
    r"grant (?P<privileges>.+?) on (?:(?P<kind>sequence|function|schema|table) )?(?P<name>.+)"
    r" to \S+;"
)
_PRIVILEGE = re.compile(r"(?P<name>\w+)(?: \((?P<columns>[^)]*)\))?(?:, |$)")

_Kind = Literal["table", "sequence", "function", "schema"]


def required_rights(names: Names, schema: str, purpose: Literal["relay", "writer"]) -> list[Right]:
    """Return what the role of a relay or of a writer needs; `schema` is where the tables are.

    Raises ValueError for a GRANT of a form that is not known here.
    """
    role = {f"{purpose}_role": "somebody"}
    return [
        right
        for line in grants(names, schema=schema, **role).splitlines()
        for right in _rights(line)
    ]


def _rights(line: str) -> Iterator[Right]:
    match = _GRANT.fullmatch(line)
    if match is None:
        raise ValueError(f"not understood: {line}")
    kind = cast("_Kind", match["kind"] or "table")
    for privilege in _PRIVILEGE.finditer(match["privileges"]):
        for column in (privilege["columns"] or "").split(", "):
            yield Right(kind, match["name"], privilege["name"], column or None)
