"""The seam to what operators have paused, and what follows from it: the same for every database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from outbox.names import check_name
from outbox.store.held import declared_lane
from outbox.topic.name import check_topic_name

if TYPE_CHECKING:
    from outbox.store.held import Action


@dataclass(frozen=True, slots=True)
class Target:
    """What a pause is of: all that agrees with it. None stands for every one there is."""

    relay: str | None = None
    lane: str | None = None
    topic: str | None = None

    def __post_init__(self) -> None:
        if self.relay is not None:
            check_name("relay", self.relay)
        if self.lane is not None:
            check_name("lane", self.lane)
        if self.topic is not None:
            check_topic_name(self.topic)

    def __str__(self) -> str:
        """Return it in words.

        >>> str(Target("default", "bulk")), str(Target())
        ('relay default, lane bulk', 'everything')
        """
        given = (("relay", self.relay), ("lane", self.lane), ("topic", self.topic))
        return ", ".join(f"{what} {name}" for what, name in given if name) or "everything"

    def covers(self, other: Target) -> bool:
        """Return whether this is the same, or more.

        >>> Target(lane="bulk").covers(Target("default", "bulk")), Target("a").covers(Target())
        (True, False)
        """
        return (
            self.relay in (None, other.relay)
            and self.lane in (None, other.lane)
            and self.topic in (None, other.topic)
        )


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that is in force. `at`: seconds since 1970."""

    target: Target
    at: float
    actor: str
    reason: str | None = None

    def concerns(self, relay: str) -> bool:
        """Return whether it holds back something of a relay name."""
        return self.target.relay in (None, relay)


@dataclass(frozen=True, slots=True)
class Pauses:
    """What is paused of one relay name."""

    relay: str
    targets: frozenset[Target] = frozenset()

    def stop(self, stream: str) -> bool:
        """Return whether nothing at all of a stream is to be sent."""
        whole = Target(self.relay, declared_lane(stream))
        return any(target.covers(whole) for target in self.targets)

    def topics(self, stream: str) -> frozenset[str]:
        """Return the topics of which nothing in a stream is to be sent."""
        lane = declared_lane(stream)
        return frozenset(
            target.topic
            for target in self.targets
            if target.topic is not None and target.covers(Target(self.relay, lane, target.topic))
        )


class PauseStore(Protocol):
    """Keeps what is paused. Every change is a transaction with its row of the audit."""

    def in_force(self) -> list[Pause]:
        """Return every pause, the oldest first."""

    def of(self, relay: str) -> Pauses:
        """Return what concerns one relay name; by one small query."""

    def pause(self, target: Target, reason: str | None, action: Action) -> bool:
        """Pause it; False, having changed nothing, if just that is paused already."""

    def resume(self, targets: Iterable[Target], action: Action) -> int:
        """Lift these pauses; return how many there were."""
