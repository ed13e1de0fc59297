"""What only the database knows, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LaneSample:
    """The backlog of one lane, or shard. `pending_is_exact`: else `pending` is an upper bound."""

    lane: str
    pending: int
    pending_is_exact: bool
    oldest_s: float | None


@dataclass(frozen=True, slots=True)
class HeldSample:
    """What lies aside, by state, each counted up to a limit; the age of the first of each, but for
    what is blocked; and how many keys it stops."""

    messages: Mapping[str, int] = field(default_factory=dict)
    oldest_seconds: Mapping[str, float] = field(default_factory=dict)
    stopped_keys: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of one relay name.

    `transactions`: the ages in seconds of those that hold messages, by kind, "open" or "prepared".
    `other_lanes`: the messages since the last sample that name a lane nobody declared, by lane.
    `scheduled`, `waiting`: the messages that wait for a time or a condition, `overdue_s`: for how
    long the first of them has been due. `pauses`: how many of a "topic" or a "lane" are in force.
    """

    taken_at: float
    lanes: tuple[LaneSample, ...]
    processes: int
    log_bytes: int
    transactions: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    other_lanes: Mapping[str, int] = field(default_factory=dict)
    scheduled: int = 0
    waiting: int = 0
    overdue_s: float = 0.0
    held: HeldSample = field(default_factory=HeldSample)
    pauses: Mapping[str, int] = field(default_factory=dict)
    oldest_pause_s: float = 0.0

    @property
    def pending(self) -> int:
        """Return how many messages wait on all lanes, or an upper bound."""
        return sum(lane.pending for lane in self.lanes)

    @property
    def pending_is_exact(self) -> bool:
        """Return whether that is no bound only."""
        return all(lane.pending_is_exact for lane in self.lanes)

    @property
    def oldest_s(self) -> float | None:
        """Return the age of the oldest message that waits."""
        return max(
            (lane.oldest_s for lane in self.lanes if lane.oldest_s is not None), default=None
        )
