"""How sizes and times are said."""

from __future__ import annotations

from outbox.text import up_to


def age(seconds: float) -> str:
    """Return a length of time in its largest unit.

    >>> age(0.5), age(90), age(7200), age(200_000)
    ('0.5 s', '2 min', '2 h', '2 days')
    """
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length * (1.5 if unit != "days" else 2):
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"


def size(count: int) -> str:
    """Return a number of bytes in its largest unit.

    >>> size(900), size(1_500_000), size(3 << 30)
    ('900 B', '1.4 MiB', '3.0 GiB')
    """
    for unit, length in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def counted(count: int, thing: str, limit: int | None = None) -> str:
    """Return a number of things, which were counted no further than just beyond `limit`.

    >>> counted(1, "broker"), counted(3, "broker"), counted(11, "message", 10)
    ('1 broker', '3 brokers', 'more than 10 messages')
    """
    number = count if limit is None else up_to(count, limit)
    return f"{number} {thing}" if count == 1 else f"{number} {thing}s"
