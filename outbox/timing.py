"""When a message may be sent: the checks of what the caller says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from outbox.errors import ConfigurationError, InvalidMessage
from outbox.names import check_name


def check_timing(deliver_at: object, delay: object, wait_for: object, expires_at: object) -> None:
    """Raise InvalidMessage for what cannot be meant. None: not given."""
    if deliver_at is not None:
        _check_moment("deliver_at", deliver_at)
    if expires_at is not None:
        _check_moment("expires_at", expires_at)
    if delay is not None:
        _check_delay(delay)
    if deliver_at is not None and delay is not None:
        raise InvalidMessage("deliver_at and delay say the same thing twice: give one of them")
    if wait_for is not None:
        check_condition("wait_for", wait_for)
    # A delay is counted by the database's clock, so nothing is known of its end here.
    if isinstance(deliver_at, datetime) and isinstance(expires_at, datetime):
        _check_order(deliver_at, expires_at)


def _check_order(deliver_at: datetime, expires_at: datetime) -> None:
    if expires_at <= deliver_at:
        raise InvalidMessage(
            f"expires_at {expires_at.isoformat()} is not after deliver_at "
            f"{deliver_at.isoformat()}, so the message could never be sent"
        )


def check_condition(what: str, condition: object) -> str:
    """Return the name of a condition; `what` is what the caller calls it."""
    try:
        return check_name(what, condition)  # type: ignore[arg-type]  # it raises for what is no str
    except ConfigurationError as error:
        raise InvalidMessage(str(error)) from None


def _check_moment(what: str, moment: object) -> None:
    if not isinstance(moment, datetime):
        raise InvalidMessage(f"{what} must be a datetime, not {type(moment).__name__}")
    if moment.utcoffset() is None:
        raise InvalidMessage(
            f"{what} {moment.isoformat()} has no time zone, so it names no moment; "
            "give it one, for example datetime.now(timezone.utc)"
        )
    try:
        moment.astimezone(UTC)
    except OverflowError:
        raise InvalidMessage(
            f"{what} {moment.isoformat()} lies outside of the years 1 to 9999 in UTC"
        ) from None


def _check_delay(delay: object) -> None:
    if not isinstance(delay, timedelta):
        raise InvalidMessage(
            f"delay must be a timedelta, not {type(delay).__name__}: timedelta(seconds=…)"
        )
    if delay < timedelta(0):
        raise InvalidMessage(f"delay {delay} is negative")
    # Our own clock will do: a delay that ends after the year 9999 is a mistake by any.
    try:
        datetime.now(UTC) + delay + timedelta(days=1)
    except OverflowError:
        raise InvalidMessage(f"delay {delay} ends after the year 9999") from None
