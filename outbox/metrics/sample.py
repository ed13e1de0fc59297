"""What only the database knows, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one relay name on one lane.

    `pending_is_exact`: else `pending` is an upper bound. `transactions`: the ages in seconds of
    those that hold messages, by kind, "open" or "prepared". `other_lanes`: the messages since the
    last sample that name another lane, by lane. `scheduled`, `waiting`: the messages that wait for
    a time or a condition, `overdue_s`: for how long the first of them has been due.
    """

    taken_at: float
    lane: str
    pending: int
    pending_is_exact: bool
    oldest_s: float | None
    processes: int
    log_bytes: int
    transactions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    other_lanes: Mapping[str, int] = field(default_factory=dict)
    scheduled: int = 0
    waiting: int = 0
    overdue_s: float = 0.0
