"""Would the database commit a write on this connection on its own? The driver's state decides.

SQLAlchemy's `in_transaction()` says yes in AUTOCOMMIT too, so it is not asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

# Any throughout: the drivers may not be installed, and their connections share no base class.
Rule = Callable[[Any, Any], bool]

# Of libpq's PGTransactionStatusType, which psycopg 3 and psycopg2 both hand out.
IDLE = 0
ACTIVE = 1


def commits_on_its_own(connection: Any, driver: Any) -> bool:
    """Say whether a write now would be committed without the caller's commit.

    `driver` is the driver's own connection; `connection` is the DBAPI face that SQLAlchemy puts
    before an asyncio driver, elsewhere the same object.
    """
    return _rule_for(driver.__class__)(connection, driver)


def psycopg_commits(connection: Any) -> bool:
    """Say so of a psycopg 3 connection, sync or async; ACTIVE (a pipeline) counts as yes."""
    # The state first: within a transaction, as nearly always, that is all there is to ask.
    return bool(connection.pgconn.transaction_status <= ACTIVE and connection.autocommit)


def sqlite_commits(connection: Any) -> bool:
    """Say so of a sqlite3 or aiosqlite connection.

    Without an open transaction it commits at once in two ways: `isolation_level=None`, and, from
    Python 3.12, `autocommit=True`. In every other state the driver begins before it inserts.
    """
    if connection.in_transaction:
        return False
    autocommit = getattr(connection, "autocommit", -1)  # -1: the old way, isolation_level decides
    return bool(autocommit is True or (autocommit == -1 and connection.isolation_level is None))


def _psycopg2_commits(connection: Any) -> bool:
    return bool(connection.autocommit and connection.info.transaction_status == IDLE)


def _asyncpg_commits(connection: Any, driver: Any) -> bool:
    # Outside AUTOCOMMIT, SQLAlchemy begins with the first statement: no transaction yet is fine.
    return bool(connection.isolation_level == "autocommit" and not driver.is_in_transaction())


def _other_driver_commits(connection: Any, driver: Any) -> bool:
    return any(getattr(face, "autocommit", False) is True for face in (connection, driver))


_RULES: dict[str, Rule] = {
    "psycopg": lambda _, driver: psycopg_commits(driver),
    "psycopg2": lambda _, driver: _psycopg2_commits(driver),
    "sqlite3": lambda _, driver: sqlite_commits(driver),
    "aiosqlite": lambda _, driver: sqlite_commits(driver),
    "asyncpg": _asyncpg_commits,
}


@lru_cache
def _rule_for(cls: type) -> Rule:
    # By the names of the bases' packages, so that no driver is imported and subclasses count.
    for base in cls.__mro__:
        rule = _RULES.get(base.__module__.partition(".")[0])
        if rule:
            return rule
    return _other_driver_commits
