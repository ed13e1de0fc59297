"""What `doctor` learns of a database. Facts only; what they mean is decided in `outbox.doctor`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from outbox.errors import OutboxError
from outbox.schema.check import Finding
from outbox.schema.version import Component
from outbox.store.base import Blocker, RelayStatus
from outbox.store.held import HeldOverview
from outbox.store.lanes import Lane
from outbox.store.pauses import Pause
from outbox.store.scheduling import ScheduleStatus

#: So many waiting messages, of each relay name and kind, and so many of the latest are looked at
#: to learn which topics are in use.
SAMPLE = 1_000


class NotLearned(OutboxError):
    """A question was given up, or cannot be answered here."""


@dataclass(frozen=True, slots=True)
class Skew:
    """How far a clock is ahead of this process's; the truth is within `within_s` of it."""

    ahead_s: float
    within_s: float


@dataclass(frozen=True, slots=True)
class Server:
    """The database itself. `number` compares: 15_00_18, 3_45_01."""

    product: str
    version: str
    number: int
    writable: str | None  # None where it is, else why it is not
    pooled: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """Where the numbers of messages come from; `top` is the largest one in the log."""

    last_value: int
    top: int
    cache: int = 1
    increment: int = 1
    cycles: bool = False


@dataclass(frozen=True, slots=True)
class Cursor:
    """What a relay name remembers. `bound`: a number that the sequence has certainly reached."""

    relay: str
    lane: str
    restored: bool
    has_plan: bool
    bound: int
    transactions_ahead: int
    idle_s: float
    lease_s: float | None
    owner: str | None
    cluster_id: str | None


@dataclass(frozen=True, slots=True)
class LaneUse:
    """The lanes of the log, and how many of its latest messages name each other than `default`."""

    lanes: tuple[Lane, ...]
    named: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TopicUse:
    """What recent and waiting messages say of a topic. `largest` is in bytes, about as sent."""

    topic: str
    messages: int
    waiting: int
    largest: int
    largest_id: str
    keyless: int


@dataclass(frozen=True, slots=True)
class Setting:
    """A server's setting, as this session has it or as a role or database is given it."""

    name: str
    value: str
    whose: str


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction that has not ended."""

    kind: Literal["open", "prepared"]
    who: str
    age_s: float


@dataclass(frozen=True, slots=True)
class Transactions:
    """The transactions that can be seen, and whether those of other roles are among them."""

    found: tuple[Transaction, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot."""

    name: str
    active: bool
    kept_bytes: int
    holds_vacuum: bool
    state: str


@dataclass(frozen=True, slots=True)
class Replication:
    """The standbys that are connected, and which of them commits are to wait for."""

    synchronous_names: str
    sync_states: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One of our tables; rows are the database's own estimates."""

    name: str
    rows: int
    dead_rows: int
    bytes: int
    autovacuum: bool
    row_security: bool


@dataclass(frozen=True, slots=True)
class Scan:
    """How the planner would read a table of the log for one of the relay's queries."""

    query: Literal["fresh", "late"]
    kind: str
    table: str
    condition: str


@dataclass(frozen=True, slots=True)
class Right:
    """A privilege a role needs: on a table (or of its columns one), sequence, function, schema."""

    kind: Literal["table", "sequence", "function", "schema"]
    name: str
    privilege: str
    column: str | None = None


class Diagnosis(Protocol):
    """What can be asked of every database. Nothing here writes, or counts a table.

    Raises NotLearned, and what a store raises.
    """

    def connect(self) -> None:
        """Open the connection, unless it is open; the tables need not exist."""

    def close(self) -> None:
        """Close the connection; never raises."""

    def server(self) -> Server:
        """Return what the server is."""

    def clock(self) -> Skew:
        """Compare the clocks."""

    def has(self, relation: str) -> bool:
        """Return whether there is a table of ours, by its plain name."""

    def drift(self, component: Component) -> list[Finding]:
        """Return how the tables differ from what they should be."""

    def sequence(self) -> Sequence:
        """Return where numbers come from."""

    def cursors(self) -> list[Cursor]:
        """Return what the relay names remember."""

    def topics(self) -> list[TopicUse]:
        """Return the topics of recent and waiting messages."""

    def progress(self) -> list[RelayStatus]:
        """Return how far every relay name is."""

    def lane_use(self) -> LaneUse:
        """Return the lanes, and which of them messages name."""

    def held_of(self, relays: Iterable[str]) -> dict[str, HeldOverview]:
        """Return what is held of each of these relay names."""

    def waits(self) -> ScheduleStatus:
        """Return how much is scheduled, and when the first of it is due."""

    def pauses_in_force(self) -> tuple[list[Pause], float]:
        """Return every pause, and the time now."""

    def holders(self) -> list[Blocker]:
        """Return the transactions that hold messages."""
