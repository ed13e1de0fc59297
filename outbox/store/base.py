"""The seam to persistence: what a relay needs of a database.

A store speaks of positions, never of sequence numbers or snapshots: how a database tells what was
committed, and in which order, is its own affair. Everything here raises DatabaseUnavailable when
the database is away, restarting or read-only; whoever sees that must forget what it holds in memory
and begin again with `acquire`, since a database that crashed may use its transaction ids again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol

from outbox.record import DeliveryMode, Mark, Page, Position
from outbox.store.lanes import Lane
from outbox.store.scheduling import Schedule, ScheduleAdmin
from outbox.store.trail import Trail

if TYPE_CHECKING:
    from outbox.store.held import HeldAdmin, HeldStore
    from outbox.store.pauses import Pauses, PauseStore

#: Up to this many messages the lag is counted, above it is estimated.
COUNT_LIMIT = 10_000

#: A process that has not been seen for this long, in seconds, is not shown any more.
FORGOTTEN_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Lease:
    """One term of holding a lane: nobody else publishes while `epoch` is the lane's epoch."""

    relay: str
    lane: str
    epoch: int
    position: Position
    log_id: str
    cluster_id: str | None
    #: How it was published up to `position`, by whoever held the lane before.
    delivery: DeliveryMode = "at-least-once"
    #: Of this cursor, from its making or last rebase on.
    origin: str = ""
    #: What relays have left behind that died here.
    trail: Trail = field(default_factory=Trail)


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of a relay name and who holds it. `expired`: nobody's lease lasts."""

    name: str
    owner: str | None
    expired: bool
    priority: int


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A relay process that has been seen lately."""

    process: str
    version: str
    state: str
    seen_seconds: float


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """How far a relay name has come on a lane.

    `lag_messages` is exact up to a limit and an upper bound above it (`lag_is_exact`), so that
    asking never counts a table. `lag_seconds` is the age of the oldest message not yet delivered.
    """

    relay: str
    lane: str
    batch: int
    lag_messages: int
    lag_is_exact: bool
    lag_seconds: float | None
    owner: str | None
    lease_seconds: float | None
    cluster_id: str | None
    processes: tuple[ProcessStatus, ...]
    #: Of whoever held the lane last.
    delivery: DeliveryMode = "at-least-once"


@dataclass(frozen=True, slots=True)
class Blocker:
    """A transaction, open or prepared, that has written messages and has not ended."""

    kind: Literal["open", "prepared"]
    who: str
    age_seconds: float


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the log that is emptied as a whole. `kept`: why it stays; None if it need not."""

    name: str
    bytes: int
    newest_age_seconds: float | None
    kept: str | None


class LogReader(Protocol):
    """Reads a lane during one term, every message once, batch after batch.

    After a new term it begins at the saved position and repeats the saved batches exactly, so that
    a message never changes its position.
    """

    def read(self, max_rows: int, max_bytes: int) -> Page | None:
        """Return the next page, of at least one record, or None if nothing is to be read now.

        `max_bytes` bounds the payloads; a single larger message is a page of its own. An empty
        page may be returned when only the position moves. Raises LeaseLost when another relay has
        taken the lane, LogInconsistent when the cursor does not fit the log any more.
        """

    def receive(self) -> None:
        """Take in what the database has sent of the page after this one, if anything.

        For the caller to call while it is busy with a page: a database that cannot get rid of what
        it has found finds nothing more. Never waits, never raises.
        """

    @property
    def ended(self) -> bool:
        """Return whether the stream is none of the log's any more, and nothing of it is left."""

    @property
    def nothing_at(self) -> str | None:
        """Return the store's moment in which there was nothing to read, None if there was."""

    @property
    def lanes_changed(self) -> bool:
        """Return whether lanes were ever changed: others may have held messages of our keys."""


class Store(Protocol):
    """What a relay needs of a database. One connection, one thread at a time."""

    def held(self) -> HeldStore:
        """Return what keeps messages that cannot be sent now."""

    def connect(self) -> None:
        """Open the connection, unless it is open, and check the version of the tables."""

    def close(self) -> None:
        """Close the connection; never raises."""

    def acquire(self, relay: str, lane: str, owner: str, lease_s: float) -> Lease | None:
        """Take the lane if nobody else holds it; None if somebody does.

        Raises ConfigurationError for an unknown relay name, LogInconsistent when the cursor was
        restored from elsewhere or is ahead of its log.
        """

    def reader(self, lease: Lease) -> LogReader:
        """Return a reader that begins at the lease's position."""

    def check_mark(self, lease: Lease, mark: Mark) -> None:
        """Raise LogInconsistent if a later position than the lease's is none of this database.

        The mark is of this log by its id, so the database must have been at an earlier time since.
        """

    def adopt(
        self, lease: Lease, position: Position, delivery: DeliveryMode, lease_s: float
    ) -> Lease:
        """Go on from `position` in this way of delivery, durably, and renew the lease.

        Only before the first read of a term. Raises LeaseLost.
        """

    def save(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Record that everything up to `position` is delivered, and renew the lease.

        Raises LeaseLost, having changed nothing, when the epoch is no longer ours.
        """

    def suspect(self, lease: Lease, position: Position, lease_s: float, seq: int) -> None:
        """Save as well that a message is about to be handed to the publisher, alone.

        Should this process die before the next `save`, `forgive` or `release`, it is known with
        which message it did. Raises LeaseLost.
        """

    def forgive(self, lease: Lease, position: Position, lease_s: float) -> None:
        """Save, and forget the relays that died here. Raises LeaseLost."""

    def acquit(self, lease: Lease, seq: int) -> None:
        """Take a message off suspicion, with the lane or without: it killed nobody, or is held
        for it by now."""

    def release(self, lease: Lease, position: Position) -> None:
        """Save the position and give the lane back at once. Raises LeaseLost."""

    def retire(self, lease: Lease) -> None:
        """Forget a stream whose reader has ended and that is delivered; does nothing otherwise."""

    def bind_cluster(self, lease: Lease, cluster_id: str) -> None:
        """Remember the broker cluster this relay name publishes to. Raises LeaseLost."""

    def moment(self) -> str:
        """Return a text that changes when any transaction ends; empty where that is not known.

        It is asked 20 times a second, so it has to be cheap.
        """

    def horizon(self) -> str:
        """Return a mark of what is committed now, for `delivered`."""

    def delivered(self, relay: str, horizon: str) -> bool:
        """Return whether everything committed before `horizon` was taken is delivered."""

    def streams(self, relay: str) -> list[Stream]:
        """Return the streams of a relay name and who holds them.

        Raises ConfigurationError for an unknown relay name.
        """

    def processes(self, relay: str, within_s: float) -> list[str]:
        """Return the processes of a relay name that could serve: seen in the last `within_s`, and
        not in a state of waiting for the broker."""

    def paused(self, relay: str) -> Pauses:
        """Return what operators have paused of a relay name; by one small query."""

    def heartbeat(self, relay: str, process: str, state: str) -> None:
        """Say that this process is alive and what it is doing."""

    def forget_process(self, relay: str, process: str) -> None:
        """Say that this process has ended."""

    def prune(self, *, dry_run: bool = False) -> list[Slice]:
        """Remove what every relay name has delivered and is older than the retention.

        Never waits for anybody, and removes a little at a time where that could make others wait.
        Says of each part of the log what became of it.
        """

    def schedule(self) -> Schedule:
        """Return what waits for its time. Forget it with the connection."""


class StoreAdmin(Protocol):
    """What operators need of a database."""

    def connect(self) -> None:
        """Open the connection, unless it is open, and check the version of the tables."""

    def close(self) -> None:
        """Close the connection; never raises."""

    def status(self, relay: str | None = None) -> list[RelayStatus]:
        """Return the state of every relay name, or of one. Never counts a table."""

    def held_admin(self) -> HeldAdmin:
        """Return what operators do with messages that cannot be sent."""

    def blockers(self) -> list[Blocker]:
        """Return the transactions that hold messages, oldest first."""

    def lanes(self) -> list[Lane]:
        """Return the lanes of the log."""

    def change_lanes(self, lanes: Sequence[Lane]) -> None:
        """Make these the lanes of the log, while it is written to and relayed.

        Order holds through the change: what is committed before it goes by the lanes of before.
        """

    def schedule(self) -> ScheduleAdmin:
        """Return what waits for its time or a condition. Forget it with the connection."""

    def backlog(self) -> BacklogState:
        """Return the limit of the backlog, and the last count."""

    def count_backlog(self) -> None:
        """Note for writers how many messages wait; does nothing where there is no limit."""

    def pauses(self) -> PauseStore:
        """Return what operators have paused. Forget it with the connection."""

    def relays(self) -> list[str]:
        """Return the relay names."""

    def create_relay(self, name: str, start: Literal["earliest", "latest"] | datetime) -> None:
        """Make a relay name; it begins at the first retained message, after the last, or at a time.

        From a time, every message that was written then or later is delivered, and perhaps some
        of before. Raises ConfigurationError if the name exists, or for a future time.
        """

    def forget_relay(self, name: str) -> None:
        """Drop a relay name and its progress. Raises ConfigurationError if it is unknown."""

    def rebind_relay(self, name: str) -> None:
        """Let a relay name publish to another broker cluster from now on."""

    def prune(self, *, dry_run: bool = False) -> list[Slice]:
        """Remove what every relay name has delivered and is older than the retention."""


class LogGauges(StoreAdmin, Protocol):
    """What is measured of a log now and then; each query is bounded."""

    def log_bytes(self) -> int:
        """Return the size of the log with its indexes; of the whole file where it has its own."""

    def other_lanes(self, after: int) -> tuple[dict[str, int], int]:
        """Return how many of the latest messages name a lane other than `default`, by lane.

        Looks at COUNT_LIMIT messages at most, and at none up to the mark `after`, 0 the first time.
        Returns the mark for the next time as well.
        """


@dataclass(frozen=True, slots=True)
class BacklogState:
    """How many messages may wait, and how many did when they were last counted, so long ago.

    None: there is no limit, or nobody has counted.
    """

    limit: int | None
    action: str | None
    messages: int
    counted_seconds: float | None


def backlog_of(statuses: Iterable[RelayStatus]) -> int:
    """Return how many messages wait for the relay name that has the most to send.

    >>> backlog_of([])
    0
    """
    by_relay: dict[str, tuple[int, int]] = {}
    for each in statuses:
        exact, bound = by_relay.get(each.relay, (0, 0))
        # A bound counts every message of the log, whatever its lane.
        if each.lag_is_exact:
            exact += each.lag_messages
        else:
            bound = max(bound, each.lag_messages)
        by_relay[each.relay] = exact, bound
    return max((sum(pair) for pair in by_relay.values()), default=0)


class LeaseLost(Exception):
    """Another relay has taken the lane."""


def unknown_relay(relay: str) -> str:
    """Return the sentence for a relay name nobody has made."""
    return (
        f"there is no relay called {relay!r}; make it with "
        f"`outbox-relay relays create {relay} --from earliest|latest`, "
        "or see `outbox-relay relays list`"
    )
