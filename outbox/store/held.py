"""The seam to what cannot be sent now: messages that lie beside the log, for each relay name.

A key that is stopped has one *head*, the message that stops it: `retrying` or `dead`. What comes
after it is `blocked`. When the head is delivered or discarded, the next one becomes the head and is
due at once. A message without a key, or one whose failure does not stop its key, stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from outbox.record import Position, Record
from outbox.store.base import Lease

State: TypeAlias = Literal["retrying", "blocked", "dead", "expired"]
STATES: tuple[State, ...] = ("retrying", "blocked", "dead", "expired")

#: A topic and a key within it.
Place: TypeAlias = tuple[str, str]

#: States are counted up to this many; more are "at least".
HELD_COUNT_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Hold:
    """What is to become of a message that was not sent, or that was tried again.

    `blocks`: whether later messages of its key wait for it. `delay_s`: the time to the next
    attempt; None for what is not retrying, and for what waits for its topic.
    """

    seq: int
    state: State
    blocks: bool
    attempts: int = 0
    delay_s: float | None = None
    fault: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """A held message to be tried again. `age_s`: since it was held, or requeued."""

    record: Record
    attempts: int
    age_s: float
    blocks: bool

    @property
    def place(self) -> Place | None:
        """Return its topic and key, where it has one."""
        return None if self.record.key is None else (self.record.topic, self.record.key)


@dataclass(frozen=True, slots=True)
class Outlook:
    """What there is to expect: whether anything is held, and when the next attempt is due."""

    anything: bool
    next_due_s: float | None


class HeldStore(Protocol):
    """What a relay does with held messages, under its lease.

    Every write moves the cursor as well, in the same transaction, and raises LeaseLost, having
    changed nothing, when the epoch is no longer ours.
    """

    def hold(self, lease: Lease, position: Position, lease_s: float, holds: Sequence[Hold]) -> None:
        """Copy messages of the log. One that is held already stays as it is."""

    def settle(
        self,
        lease: Lease,
        position: Position,
        lease_s: float,
        delivered: Sequence[int],
        failed: Sequence[Hold],
    ) -> set[Place]:
        """Drop what was delivered and note what failed; return the keys that are free now."""

    def stopped_keys(self, lease: Lease, limit: int) -> set[Place] | None:
        """Return the keys that have a head; None where there are more than `limit`."""

    def may_be_shared(self, lease: Lease) -> bool:
        """Return whether other streams may hold messages of this one's keys, or may have."""

    def stopped_among(self, lease: Lease, places: Collection[Place]) -> set[Place]:
        """Return those of these keys that have a head."""

    def waiting_topics(self, lease: Lease) -> list[str]:
        """Return the topics that are waited for."""

    def outlook(self, lease: Lease) -> Outlook:
        """Return what there is to expect."""

    def due(self, lease: Lease, limit: int, max_bytes: int) -> list[HeldRecord]:
        """Return what is due, the longest overdue first; no key twice."""

    def first_waiting(self, lease: Lease, topic: str) -> HeldRecord | None:
        """Return the first message that waits for its topic."""

    def behind(self, lease: Lease, place: Place, limit: int, max_bytes: int) -> list[HeldRecord]:
        """Return the first of the messages that are blocked behind a head, in order."""

    def wake(self, lease: Lease, topic: str, limit: int) -> int:
        """Let messages that wait for a topic be due now, the first `limit`; return how many."""

    def mend(self, lease: Lease, after: Place | None, limit: int) -> Place | None:
        """Give keys a head again that lost theirs to a plain DELETE.

        Looks at `limit` keys with blocked messages, above `after`; returns where to go on, None at
        the end.
        """


@dataclass(frozen=True, slots=True)
class HeldFilter:
    """Which held messages an operator means; None: whatever it is. Text `id`, as shown."""

    relay: str
    states: tuple[State, ...] = STATES
    topic: str | None = None
    key: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class HeldMessage:
    """A held message as an operator sees it. Times in seconds before or after now."""

    seq: int
    lane: str
    id: str
    topic: str
    key: str | None
    type: str | None
    state: State
    attempts: int
    fault: str | None
    error: str | None
    bytes: int
    age_seconds: float
    held_seconds: float
    next_attempt_seconds: float | None


@dataclass(frozen=True, slots=True)
class HeldOverview:
    """What is held of one relay name; each figure stops counting at HELD_COUNT_LIMIT + 1.

    `oldest_seconds`: since the first message of a state was written; nothing for `blocked`, which
    waits behind something older. `stopped_keys`: those whose later messages wait.
    """

    messages: Mapping[State, int]
    oldest_seconds: Mapping[State, float]
    stopped_keys: int


@dataclass(frozen=True, slots=True)
class Edition:
    """What takes the place of a held message. `headers`: as they are stored."""

    id: str
    topic: str
    key: str | None
    payload: bytes | None
    type: str | None
    content_type: str | None
    headers: str


@dataclass(frozen=True, slots=True)
class Action:
    """What an operator does, for the audit: one command, which may work in several batches."""

    action: str
    actor: str
    source: str
    command: str
    what: Mapping[str, object]

    def row(self, messages: int) -> tuple[object, ...]:
        """Return what `write_audit` writes, in the order of its columns."""
        what = json.dumps(dict(self.what))
        return (self.action, self.actor, self.source, self.command, what, messages)


@dataclass(frozen=True, slots=True)
class Audited:
    """What an operator did. `at`: seconds since 1970."""

    action: str
    at: float
    actor: str
    source: str
    command: str
    what: Mapping[str, object]
    messages: int


class HeldAdmin(Protocol):
    """What operators do with held messages.

    Each change is a short transaction of at most `limit` messages, with its row of the audit.
    """

    def counts(self, relay: str) -> dict[State, int]:
        """Return how many there are in each state, at most HELD_COUNT_LIMIT + 1 of each."""

    def overview(self, relay: str) -> HeldOverview:
        """Return how much there is, and how old. Reads a bounded number of rows, by index."""

    def count(self, which: HeldFilter, limit: int) -> int:
        """Return how many match, at most `limit`."""

    def find(self, which: HeldFilter, limit: int, after: int = 0) -> list[HeldMessage]:
        """Return those that match above a seq, in order of seq."""

    def content(self, relay: str, seq: int) -> Record | None:
        """Return a held message whole."""

    def requeue(
        self, which: HeldFilter, limit: int, action: Action, after: int = 0
    ) -> tuple[int, int | None]:
        """Let messages that are dead, expired or retrying be tried at once, as if for the first
        time. Returns how many, and the mark for the next batch, None after the last."""

    def discard(
        self, which: HeldFilter, limit: int, action: Action, before: int | None = None
    ) -> tuple[int, int | None]:
        """Delete messages, the last ones first, so that none of them is sent meanwhile. Returns how
        many, and the mark for the next batch, None after the last."""

    def edit(self, which: HeldMessage, relay: str, new: Edition, action: Action) -> bool:
        """Put another message in the place of one that is dead or expired, due at once.

        It keeps the place in the order of the key, unless it has another topic or key: then it
        stands alone, and what was blocked goes on. Returns whether the message was still there.
        """

    def audit(self, limit: int) -> list[Audited]:
        """Return what operators did, the latest first."""


def declared_lane(stream: str) -> str:
    """Return the lane of a stream, which may be one of several shards of it.

    >>> declared_lane("bulk:3"), declared_lane("default")
    ('bulk', 'default')
    """
    return stream.partition(":")[0]


def shard_of(stream: str) -> int | None:
    """Return which shard of its lane a stream is; None where it is the whole lane.

    >>> shard_of("bulk:3"), shard_of("default")
    (3, None)
    """
    shard = stream.partition(":")[2]
    return int(shard) if shard else None


def places_of(rows: Iterable[tuple[str, str | None]]) -> set[Place]:
    """Return the topics and keys of rows that have a key."""
    return {(topic, key) for topic, key in rows if key is not None}
