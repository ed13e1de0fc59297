"""What a verification found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["missing", "repeated", "out of order", "unknown", "misplaced"]

#: In the order in which they are shown.
KINDS: tuple[Kind, ...] = ("missing", "out of order", "misplaced", "unknown", "repeated")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. What does not apply is None."""

    kind: Kind
    topic: str
    what: str
    id: str | None = None
    key: str | None = None
    seq: int | None = None
    partition: int | None = None
    offset: int | None = None


@dataclass(slots=True)
class TopicReport:
    """What was compared of one topic, in messages of the log and in records of the topic.

    `messages` are those of the log that were looked at; of them `found`, `missing` and
    `no_longer_there` (before the beginning of the topic, or compacted away) are delivered.
    `waiting`, `held`, `expired` and `earlier` are not expected in the topic, nor are those that an
    operator has `discarded`; in place of those that were `replaced`, the other message is. `again`
    are records of messages that came before: `resent` in one piece after an interruption,
    `requeued` on purpose and without a position, and `repeated`, which nothing explains. `foreign`
    records are not of this log and relay name.
    """

    topic: str
    exists: bool = True
    messages: int = 0
    found: int = 0
    missing: int = 0
    no_longer_there: int = 0
    waiting: int = 0
    held: int = 0
    earlier: int = 0
    expired: int = 0
    discarded: int = 0
    replaced: int = 0
    records: int = 0
    again: int = 0
    resent: int = 0
    requeued: int = 0
    repeated: int = 0
    out_of_order: int = 0
    misplaced: int = 0
    unknown: int = 0
    foreign: int = 0

    @property
    def faults(self) -> int:
        """Return how much is wrong."""
        return self.missing + self.repeated + self.out_of_order + self.misplaced + self.unknown


@dataclass(slots=True)
class Report:
    """The whole comparison. `findings` are the first of each kind; the numbers count all."""

    relay: str
    isolation: str
    since: float | None
    until: float | None
    topics: list[TopicReport] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def faults(self) -> int:
        """Return how much is wrong."""
        return sum(topic.faults for topic in self.topics)

    @property
    def resent(self) -> int:
        """Return how many records were sent again after an interruption."""
        return sum(topic.resent for topic in self.topics)
