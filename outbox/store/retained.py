"""The log as it is kept: every message that is still there, delivered or not, in order of seq.

What `verify` and `replay` read. It is read in pages by index, each in a transaction of its own, so
that no pass over a large log holds back vacuum or the emptying of old slots.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from outbox.record import Record
    from outbox.store.held import Action
    from outbox.store.lanes import Topology

#: In seconds: how far two messages with neighbouring numbers may be from the order of their times.
#: The number is drawn and the clock is read a moment apart, and a server may be frozen in between.
DISORDER_S = 60.0


class Standing(enum.IntEnum):
    """How a message stands with a relay name."""

    WAITING = 0
    DELIVERED = 1
    HELD = 2  # the cursor has passed it, and it was put aside: retrying, blocked, dead
    EARLIER = 3  # written before the relay name began
    EXPIRED = 4  # held, since its time was over
    DISCARDED = 5  # an operator has deleted it: it will never be sent
    REPLACED = 6  # another message, with another id, goes in its place


class Entry(NamedTuple):
    """A message without what it carries. `id`: 16 bytes, see `identity`; `created_at`: seconds."""

    seq: int
    id: bytes
    topic: str
    key: str | None
    tombstone: bool
    created_at: float
    standing: int
    lane: str | None = None  # as the message names it


class Removal(NamedTuple):
    """Messages that an operator has taken out of the way, and how they stand since.

    `messages`: numbers and ids; `id`, `topic`: of the message that goes in place of one.
    """

    messages: list[tuple[int, bytes]]
    standing: Standing
    id: bytes | None = None
    topic: str | None = None


#: How messages stand after a command, as the audit calls it.
_REMOVING = {"held discard": Standing.DISCARDED, "held edit": Standing.REPLACED}
REMOVING_COMMANDS = tuple(_REMOVING)


def removal(command: str, what: Mapping[str, Any]) -> Removal:
    """Return what a row of the audit tells."""
    standing = _REMOVING[command]
    messages = list(zip(what["seqs"], map(identity, what["ids"]), strict=True))
    if standing is Standing.DISCARDED:
        return Removal(messages, standing)
    return Removal(messages, standing, identity(what["replaced_by"]), what["topic"])


class Label(NamedTuple):
    """What a message is called."""

    id: bytes
    topic: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages are meant; empty and None: whatever it is. Times in seconds since 1970."""

    since: float | None = None
    until: float | None = None
    topics: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def given(self) -> dict[str, object]:
        """Return what was said, for the audit."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in said.items() if value not in (None, ())}


class Match(NamedTuple):
    """A message that is meant. `weight`: about its bytes."""

    seq: int
    topic: str
    weight: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a pass over the log has to know. `now`: the database's clock, in seconds."""

    log_id: str
    retention_s: float
    now: float


@dataclass(frozen=True, slots=True)
class Reach:
    """What a relay name has delivered at one moment; `cursor` is the database's own affair."""

    relay: str
    cluster_id: str | None
    cursor: Any


class RetainedLog(Protocol):
    """Reads what is kept. One connection, one thread at a time."""

    def connect(self) -> None:
        """Open the connection, unless it is open, and check the version of the tables."""

    def close(self) -> None:
        """Close the connection; never raises."""

    def facts(self) -> Facts:
        """Return the log's id, its retention, and the time."""

    def reach(self, relay: str) -> Reach:
        """Return how far a relay name is now.

        Raises ConfigurationError for an unknown name, LogInconsistent for a cursor that was
        restored from elsewhere.
        """

    def entries(self, reach: Reach, after: int, limit: int) -> list[Entry]:
        """Return the next messages behind the number `after`, in order of seq; none at the end."""

    def removals(self, relay: str, after: int, limit: int) -> tuple[list[Removal], int | None]:
        """Return what operators have removed of a relay name's messages, the first `limit` times.

        In the order in which it was done, behind the mark `after`, 0 at first. Also returns the
        next mark, None at the end.
        """

    def topologies(self) -> list[Topology]:
        """Return the lanes there have been, the present ones last."""

    def labels(self, seqs: Collection[int]) -> dict[int, Label]:
        """Return what the messages of these numbers are called; those that are there."""

    def matching(
        self, reach: Reach, selection: Selection, after: int, limit: int
    ) -> tuple[list[Match], int | None]:
        """Look at the next `limit` messages behind the number `after`.

        Returns those that are delivered, meant, and not expired since, in order of seq, and the
        number behind which to go on; None at the end.
        """

    def records(self, seqs: Sequence[int]) -> list[Record]:
        """Return messages whole, in order of seq; those that are there."""

    def note(self, action: Action, messages: int) -> None:
        """Note in the audit what is done to so many messages."""

    def first_since(self, moment: float) -> int:
        """Return a number that all messages written at `moment` or later are above.

        Raised as far as the order of times allows, so that reading need not begin at the oldest.
        """


def identity(text: str) -> bytes:
    """Return 16 bytes that stand for an id: those of a UUID, in any of its forms, or a digest.

    >>> identity("018F3f1e-0000-7000-8000-000000000001").hex()
    '018f3f1e000070008000000000000001'
    """
    try:
        found = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        found = b""
    return found if len(found) == 16 else blake2b(text.encode(), digest_size=16).digest()


def number_before(
    moment: float, lowest: int, highest: int, look: Callable[[int], tuple[int, float] | None]
) -> int:
    """Return a number below which all messages were written before `moment`, by bisection.

    `look(after)` gives the number and the time of the first message behind a number. As times are
    in the order of numbers only about, the result is for a moment DISORDER_S earlier.
    """
    moment -= DISORDER_S
    while lowest < highest:
        middle = (lowest + highest) // 2
        found = look(middle)
        if found is None or found[1] >= moment:
            highest = middle
        else:
            lowest = found[0]
    return lowest
