"""Whose fault it is when the database does not do what the relay asks of it.

One table for every class of SQLSTATE and every result code of SQLite: the stores decide by it, the
documentation shows it, and a test finds what it lacks. Nothing here is ever held against a message.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from outbox.errors import ConfigurationError, DatabaseUnavailable, OutboxError, SchemaMissing


class DatabaseFault(enum.Enum):
    """Whose fault an error of the database is."""

    AWAY = "the server's, or the network's"
    SERVER = "the server's: no room, damage"
    STANDBY = "the server's: it takes no writes"
    CONFLICT = "another transaction's"
    LOGIN = "the configuration's: who may connect"
    RIGHTS = "the configuration's: rights"
    SCHEMA = "the configuration's: the tables"
    CONFIGURATION = "the configuration's: what else is in the database"
    OURS = "ours"

    @property
    def what_happens(self) -> str:
        """What the relay does about it, in words."""
        return _HANDLING[self].what_happens

    @property
    def waits(self) -> bool:
        """Return whether the relay goes on by itself once it is over."""
        return issubclass(_HANDLING[self].error, DatabaseUnavailable)


@dataclass(frozen=True, slots=True)
class _Handling:
    error: type[OutboxError]
    #: What the error says, around the database's own words.
    sentence: str
    what_happens: str


_HANDLING = {
    DatabaseFault.AWAY: _Handling(
        DatabaseUnavailable,
        "the database is away: {}",
        "the relay forgets what it has in memory, and begins anew with a new connection; for ever, "
        "with growing pauses",
    ),
    DatabaseFault.SERVER: _Handling(
        DatabaseUnavailable,
        "the database server cannot go on: {}; it needs room or repair, and nothing is lost",
        "as above, until there is room again: disk, memory, connections",
    ),
    DatabaseFault.STANDBY: _Handling(
        DatabaseUnavailable,
        "the database is away: {}; it is a standby or set to read-only, so it must be promoted, or "
        "the relay given the primary's address",
        "as above: each new connection may reach the primary",
    ),
    DatabaseFault.CONFLICT: _Handling(
        DatabaseUnavailable,
        "another transaction was in the way, and the relay's is tried again: {}",
        "the transaction has changed nothing, and is tried again; for ever, with growing pauses",
    ),
    DatabaseFault.LOGIN: _Handling(
        DatabaseUnavailable,
        "the database does not let the relay in: {}; look at its user, password and database",
        "the relay tries again for ever: a password that is being changed, or a database that is "
        "being made, is a matter of time",
    ),
    DatabaseFault.RIGHTS: _Handling(
        ConfigurationError,
        "{}; grant what the relay needs with `outbox-relay migrate --relay-role ROLE`",
        "the relay ends with exit 78, and says which right is missing and how to grant it",
    ),
    DatabaseFault.SCHEMA: _Handling(
        SchemaMissing,
        "{}; run `outbox-relay migrate`",
        "the relay ends with exit 5: `outbox-relay migrate`",
    ),
    DatabaseFault.CONFIGURATION: _Handling(
        ConfigurationError,
        "{}; no waiting mends that: look at the settings, and for triggers, rules and functions of "
        "yours on the tables of outbox-relay",
        "the relay ends with exit 78, and says what the database said",
    ),
    DatabaseFault.OURS: _Handling(
        OutboxError,
        "the database refused a statement of outbox-relay: {}. Nothing is lost; the fault is "
        "ours, so please report it with this sentence",
        "the relay ends with exit 1, and asks for a report; nothing has moved",
    ),
}

#: Classes (two characters) and codes (five) of SQLSTATE; a code wins over its class.
_SQLSTATES = {
    # 25: a session that was ended in the middle of a transaction, and 55000: a server that is being
    # recovered, or takes no connections for now. To begin again mends all of them.
    DatabaseFault.AWAY: "08 25 55000 57",
    DatabaseFault.SERVER: "53 58 F0 XX",
    DatabaseFault.STANDBY: "25006",
    DatabaseFault.CONFLICT: "40 55 57014 72",
    DatabaseFault.LOGIN: "28 3D",
    DatabaseFault.RIGHTS: "42501",
    DatabaseFault.SCHEMA: "3F 42P01 42703",
    DatabaseFault.CONFIGURATION: "09 27 2F 38 39 44 55P02 HV P0",
    DatabaseFault.OURS: """
        02 03 0A 0B 0F 0L 0P 0Z 10 20 21 22 23 24 26 2B 2D 34 3B 42 54 55P04""",
}

#: SQLite's result codes, without their extension: SQLITE_IOERR_READ is an IOERR.
_SQLITE_CODES = {
    DatabaseFault.AWAY: "CANTOPEN",
    DatabaseFault.SERVER: "CORRUPT FULL INTERNAL IOERR NOLFS NOMEM",
    DatabaseFault.STANDBY: "READONLY",
    DatabaseFault.CONFLICT: "ABORT BUSY INTERRUPT LOCKED PROTOCOL SCHEMA",
    DatabaseFault.CONFIGURATION: "AUTH NOTADB PERM",
    DatabaseFault.OURS: """
        CONSTRAINT EMPTY ERROR FORMAT MISMATCH MISUSE NOTFOUND RANGE TOOBIG""",
}

#: SQLite has no codes of their own for these, only words.
_SQLITE_WORDS = ("no such table: ", "no such column: ", " has no column named ")

#: SQLSTATE's class or code to whose fault it is.
SQLSTATES = {code: fault for fault, codes in _SQLSTATES.items() for code in codes.split()}

#: SQLite's result code to whose fault it is.
SQLITE_CODES = {code: fault for fault, codes in _SQLITE_CODES.items() for code in codes.split()}

#: What a driver that lost its connection may be taken to say: it has no SQLSTATE of its own.
CONNECTION_LOST = "08006"


def fault_of_sqlstate(sqlstate: str) -> DatabaseFault:
    """Return whose fault an error of this SQLSTATE is.

    One of a class that nobody knows counts as ours, and "" too: the relay ends and says what it was
    told, since it cannot know that waiting would help.
    """
    by_class = SQLSTATES.get(sqlstate[:2], DatabaseFault.OURS)
    return SQLSTATES.get(sqlstate, by_class)


def fault_of_sqlite(error_name: str, words: str) -> DatabaseFault:
    """Return whose fault an error of SQLite is; `error_name`: as in `sqlite_errorname`.

    What has no name, since Python raises it and not SQLite, is ours.
    """
    if any(part in words for part in _SQLITE_WORDS):
        return DatabaseFault.SCHEMA
    code = error_name.removeprefix("SQLITE_").partition("_")[0]
    return SQLITE_CODES.get(code, DatabaseFault.OURS)


def explained(fault: DatabaseFault, said: str) -> OutboxError:
    """Return the error to raise. `said`: what the database said, without a full stop."""
    handling = _HANDLING[fault]
    error = handling.error(handling.sentence.format(said))
    if isinstance(error, DatabaseUnavailable) and fault is not DatabaseFault.AWAY:
        error.why = fault.name
    return error


def explained_sqlite(error: Exception, place: str) -> OutboxError:
    """Return what to raise for an error of `sqlite3` with the file at `place`."""
    name = getattr(error, "sqlite_errorname", "")
    return explained(fault_of_sqlite(name, str(error)), f"{place}: {error}")
