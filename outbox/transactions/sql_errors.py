"""What the database's refusals mean to somebody who writes to our tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    OutboxError,
    SchemaMissing,
    SchemaTooOld,
)


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do where the tables are missing or old, and where a right is missing."""

    migrate: str
    grant: str


_READ_ONLY = "This is a standby or a read-only transaction: write on the primary"

#: By SQLSTATE: which error, and which advice.
_BY_SQLSTATE: dict[str, tuple[type[OutboxError], Callable[[Advice], str]]] = {
    "42P01": (SchemaMissing, attrgetter("migrate")),
    "3F000": (SchemaMissing, attrgetter("migrate")),
    "42703": (SchemaTooOld, attrgetter("migrate")),
    "42501": (ConfigurationError, attrgetter("grant")),
    "25006": (DatabaseUnavailable, lambda _: _READ_ONLY),
}

#: SQLite has no codes for these, only words.
_BY_WORDS = {
    "no such table: ": "42P01",
    "has no column named ": "42703",
    "attempt to write a readonly database": "25006",
}


def raise_explained(error: Exception, advice: Advice) -> None:
    """Raise an OutboxError where the cause is known; return where the driver's own error is best.

    Call it in the `except` block: the driver's error becomes the cause. Serialization failures,
    deadlocks and lost connections stay what they are, since the caller retries on those.
    """
    driver_error = _driver_error(error)
    if known := _BY_SQLSTATE.get(_state(driver_error)):
        cls, advised = known
        first_line = str(driver_error).strip().partition("\n")[0]
        raise cls(f"{first_line}; nothing was written. {advised(advice)}") from error


def _driver_error(error: Exception) -> BaseException:
    """Return what the driver raised: SQLAlchemy wraps it, and Django makes it the cause."""
    wrapped: BaseException | None = getattr(error, "orig", None)
    from_django = type(error).__module__ == "django.db.utils"
    return wrapped or (error.__cause__ if from_django else None) or error


def _state(error: BaseException) -> str:
    """Return the SQLSTATE, or the one that SQLite's words stand for; "" for none."""
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state:
        return str(state)
    words = str(error)
    return next((state for part, state in _BY_WORDS.items() if part in words), "")
