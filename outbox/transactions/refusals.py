"""What to say to a caller who passed something that is not a supported transaction."""

from __future__ import annotations

from typing import Literal

_WANTED = {
    "sync": "a SQLAlchemy Session or Connection, a psycopg Connection, a sqlite3.Connection or one "
    "of django.db.connections",
    "async": "a SQLAlchemy AsyncSession or AsyncConnection or a psycopg AsyncConnection",
}

_ASYNCHRONOUS = {"AsyncSession", "async_scoped_session", "AsyncConnection"}
_SYNCHRONOUS = {"Session", "scoped_session", "Connection", "BaseDatabaseWrapper", "ConnectionProxy"}

#: By the name of a class or one of its bases: what the caller has in hand, and what to do.
_HINTS = {
    "SessionTransaction": "pass the session itself, not what session.begin() returns",
    "AsyncSessionTransaction": "pass the session itself, not what session.begin() returns",
    "Transaction": "pass the connection itself, not its transaction",
    "AsyncTransaction": "pass the connection itself, not its transaction",
    "BaseCursor": "pass the connection, not a cursor",
    "Cursor": "pass the connection, not a cursor",
    "Engine": "pass the connection of `with engine.begin() as connection:`",
    "AsyncEngine": "pass the connection of `async with engine.begin() as connection:`",
    "sessionmaker": "call it and pass the session: `with make_session() as session:`",
    "async_sessionmaker": "call it and pass the session: `async with make_session() as session:`",
    "Atomic": "pass django.db.connections[alias], not what transaction.atomic() returns",
    "ConnectionHandler": "pass one of them: django.db.connections[alias]",
    "BasePool": "pass the connection of `with pool.connection() as connection:`",
    "_GeneratorContextManager": "enter it and pass what `with … as` gives",
    "_AsyncGeneratorContextManager": "enter it and pass what `async with … as` gives",
    "str": "the transaction comes first, then the topic",
}


def refusal(transaction: object, verb: str, *, wanted: Literal["sync", "async"]) -> str:
    """Return the message of the TypeError: what was passed, what is needed, how to get there.

    `verb` is the method that was called, such as "add" or "record_async".
    """
    names = {base.__name__ for base in transaction.__class__.__mro__}
    if wanted == "sync" and names & _ASYNCHRONOUS:
        return f"{_name(transaction)} is asynchronous: use `await {verb}_async(…)`"
    if wanted == "async" and names & _SYNCHRONOUS:
        return f"{_name(transaction)} is not asynchronous: use {verb.removesuffix('_async')}(…)"
    hints = [_HINTS[name] for name in sorted(names) if name in _HINTS]
    needed = f"{verb}() needs {_WANTED[wanted]}, not {_name(transaction)}"
    return ": ".join([needed, *hints[:1]])


def _name(transaction: object) -> str:
    cls = transaction.__class__
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")
