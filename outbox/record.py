"""What a relay carries: a message of the log, its place in the order, and a page of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


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
    total: int  # bytes of this selection up to here; only for bounding a page


class Position(NamedTuple):
    """A place in the order of publication: the number of a batch, and a seq within it."""

    batch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a batch, as much as is handed to the broker at a time.

    `end` is the cursor's position once everything up to this page is acknowledged.
    """

    batch: int
    records: Sequence[Record]
    end: Position
