"""Names: of the tables in the database, and of relays, lanes and consumers."""

from __future__ import annotations

import re
from dataclasses import dataclass

from outbox.errors import ConfigurationError

#: The partitions of the log on PostgreSQL, which are written to in turn.
SLOTS = range(4)

#: Everything the migrations create that a schema can qualify.
RELATIONS = (
    "outbox_message",
    *(f"outbox_message_{slot}" for slot in SLOTS),
    "outbox_message_seq",
    "outbox_slot",
    "outbox_scheduled",
    "outbox_cursor",
    "outbox_plan",
    "outbox_lane",
    "outbox_process",
    "outbox_held",
    "outbox_pause",
    "outbox_audit",
    "outbox_meta",
    "inbox_message",
    "inbox_meta",
)

_IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


def check_name(what: str, name: str) -> str:
    """Return `name`, the name of a relay, a lane or a consumer, or raise ConfigurationError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} {name!r} is not a valid name: use 1 to 64 of the characters A-Z a-z 0-9 . _ -"
        )
    return name


@dataclass(frozen=True, slots=True)
class Names:
    """Where the tables are: `schema` (None: the search path) and a prefix of every name.

    Both are checked, so that a name may be put into SQL text.
    """

    schema: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        for what, value in (("schema", self.schema), ("table_prefix", self.prefix or None)):
            if value is not None and not _IDENTIFIER.fullmatch(value):
                raise ConfigurationError(
                    f"{what} {value!r} is not valid: use at most 40 of the characters a-z 0-9 _, "
                    "not beginning with a digit"
                )

    def __getitem__(self, relation: str) -> str:
        """Return the quoted, qualified SQL name of one of RELATIONS."""
        if relation not in RELATIONS:
            raise KeyError(relation)
        name = f'"{self.prefix}{relation}"'
        return f'"{self.schema}".{name}' if self.schema else name

    def render(self, sql: str) -> str:
        """Put these names into SQL that was written with the plain ones.

        Relations are qualified; names of indexes and constraints, which live in the schema of
        their table, only get the prefix.
        """
        if not self.schema and not self.prefix:
            return sql
        return _OURS.sub(
            lambda match: self[match[0]] if match[0] in RELATIONS else self.prefix + match[0], sql
        )


_OURS = re.compile(r"\b(?:outbox|inbox)_[a-z0-9_]+\b")
