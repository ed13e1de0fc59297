"""What a relay carries: a message of the log, its place in the order, and a page of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, NamedTuple, TypeAlias

#: The ways in which a relay can publish.
DeliveryMode: TypeAlias = Literal["at-least-once", "exactly-once"]
EXACTLY_ONCE: DeliveryMode = "exactly-once"


class Record(NamedTuple):
    """One message of the log. Stores may return plain tuples of this shape: the path is hot."""

    seq: int
    id: str
    topic: str
    key: str | None
    payload: bytes | None
    type: str | None
    content_type: str | None
    headers: str | None  # JSON text: an object, or an array of [name, value] pairs
    traceparent: str | None
    tracestate: str | None
    expired: bool | None  # whether its time was over when it was read; None: it has none
    total: int  # bytes of this selection up to here; only for bounding a page


_payload = itemgetter(4)
_expired = itemgetter(10)


def any_expired(records: Iterable[Record]) -> bool:
    """Return whether the time of a message is over. Every page is asked this, so it is quick."""
    return any(map(_expired, records))


def payload_sizes(records: Iterable[Record]) -> Iterator[int]:
    """Yield how many bytes each payload has that has any."""
    return map(len, filter(None, map(_payload, records)))


#: A seq above every seq: with it a position is behind all of its batch.
END = 2**63 - 1


class Position(NamedTuple):
    """A place in the order of publication: the number of a batch, and a seq within it."""

    batch: int
    seq: int


class Mark(NamedTuple):
    """A position for keeping it outside the database, with what tells whose position it is.

    `token` names the batch in this log, and in none that was restored to a moment before it.
    """

    log_id: str
    batch: int
    token: str
    seq: int

    @property
    def text(self) -> str:
        """Return what `parse` takes; well under a kilobyte."""
        return f"{self.log_id}/{self.batch}/{self.token}/{self.seq}"

    @property
    def position(self) -> Position:
        """Return the place in the order."""
        return Position(self.batch, self.seq)

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """Return the mark that a text says, None where it says none.

        >>> Mark.parse("log/7/token/12").position
        Position(batch=7, seq=12)
        """
        try:
            log_id, batch, token, seq = text.split("/")
            return cls(log_id, int(batch), token, int(seq))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a batch, as much as is handed to the broker at a time.

    `end` is the cursor's position once everything up to this page is acknowledged; `mark` is the
    text of its mark, where there are records.
    """

    batch: int
    records: Sequence[Record]
    end: Position
    mark: str = ""
