"""What the database's refusals mean to somebody who writes a message."""

from __future__ import annotations

from outbox.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    OutboxError,
    SchemaMissing,
    SchemaTooOld,
)

_MIGRATE = (
    "nothing was written. Run `outbox-relay migrate` on the database that this transaction "
    "belongs to, or tell the Outbox where its tables are: schema=, table_prefix="
)

_BY_SQLSTATE: dict[str, tuple[type[OutboxError], str]] = {
    "42P01": (SchemaMissing, _MIGRATE),
    "3F000": (SchemaMissing, _MIGRATE),
    "42703": (SchemaTooOld, _MIGRATE),
    "42501": (
        ConfigurationError,
        "nothing was written. Grant what a writer needs: `outbox-relay migrate --writer-role ROLE`",
    ),
    "25006": (
        DatabaseUnavailable,
        "nothing was written. This is a standby or a read-only transaction: write on the primary",
    ),
}

#: SQLite has no codes for these two, only words.
_BY_WORDS = {
    "no such table: ": _BY_SQLSTATE["42P01"],
    "has no column named ": _BY_SQLSTATE["42703"],
    "attempt to write a readonly database": _BY_SQLSTATE["25006"],
}


def raise_explained(error: Exception) -> None:
    """Raise an OutboxError where the cause is known; return where the driver's own error is best.

    Call it in the `except` block: the driver's error becomes the cause. Serialization failures,
    deadlocks and lost connections stay what they are, since the caller retries on those.
    """
    driver_error = _driver_error(error)
    known = _known(driver_error)
    if known:
        cls, advice = known
        first_line = str(driver_error).strip().partition("\n")[0]
        raise cls(f"{first_line}; {advice}") from error


def _driver_error(error: Exception) -> BaseException:
    """Return what the driver raised: SQLAlchemy wraps it, and Django makes it the cause."""
    wrapped: BaseException | None = getattr(error, "orig", None)
    from_django = type(error).__module__ == "django.db.utils"
    return wrapped or (error.__cause__ if from_django else None) or error


def _known(error: BaseException) -> tuple[type[OutboxError], str] | None:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state:
        return _BY_SQLSTATE.get(state)
    words = str(error)
    return next((known for part, known in _BY_WORDS.items() if part in words), None)
