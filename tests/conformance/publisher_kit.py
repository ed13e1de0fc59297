"""What tests of publishers need: records to send, and a tally of acknowledgements."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from outbox.headers import WireHeaders, wire_headers
from outbox.record import Record

if TYPE_CHECKING:
    from confluent_kafka import Message

    from outbox.publishers.base import Publisher

PREFIX = "log/relay/lane/7/"  # of the positions
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Arrived:
    """A message as the broker keeps it."""

    partition: int
    offset: int
    key: bytes | None
    payload: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def id(self) -> str:
        return (dict(self.headers)["id"] or b"").decode()


@dataclass
class Tally:
    """Notes acknowledgements, in the order in which they come; implements Delivery."""

    acknowledgements: list[int] = field(default_factory=list)
    mark: str = ""

    def acknowledged(self, index: int) -> None:
        assert index not in self.acknowledgements, f"message {index} was acknowledged twice"
        self.acknowledgements.append(index)

    @property
    def indexes(self) -> list[int]:
        return sorted(self.acknowledgements)


@dataclass
class Reported:
    """A message as librdkafka's delivery reports give it."""

    place: int
    number: int | None

    def partition(self) -> int:
        return self.place

    def offset(self) -> int | None:
        return self.number


@dataclass
class Sending:
    """A publisher, and what it was given so far; `delivery` counts over all of its pages."""

    publisher: Publisher
    records: list[Record] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def publish(self, records: Iterable[Record], check: Callable[[], None] = lambda: None) -> None:
        page = list(records)
        base = len(self.records)
        self.records += page
        mark = f"mark of {base + len(page)}"
        self.publisher.publish(page, PREFIX, _From(self.tally, base, mark), check)

    def deliver(self, records: Iterable[Record]) -> None:
        """Publish and wait until all of it is acknowledged."""
        self.publish(records)
        self.publisher.flush(TIMEOUT_S)
        assert self.tally.indexes == list(range(len(self.records)))

    @property
    def acknowledged_ids(self) -> set[str]:
        return {self.records[index].id for index in self.tally.acknowledgements}


@dataclass(frozen=True)
class _From:
    tally: Tally
    base: int
    mark: str

    def acknowledged(self, index: int) -> None:
        self.tally.acknowledged(self.base + index)


def record(topic: str, seq: int = 1, **changes: Any) -> Record:
    """Return a message as a store reads it: with a key, a small payload, and nothing else."""
    plain = Record(
        seq=seq,
        id=str(uuid.uuid4()),
        topic=topic,
        key="k",
        payload=b"%d" % seq,
        type=None,
        content_type=None,
        headers=None,
        traceparent=None,
        tracestate=None,
        expired=None,
        total=0,
    )
    return plain._replace(**changes)


def some_records(topic: str, count: int, **changes: Any) -> list[Record]:
    return [record(topic, seq, **changes) for seq in range(1, count + 1)]


def headers_of(record: Record) -> WireHeaders:
    """Return the headers that a publisher sends with a record."""
    return wire_headers(
        *(record.id, record.type, record.content_type, record.traceparent, record.tracestate),
        *(f"{PREFIX}{record.seq}", record.headers),
    )


def as_arrived(message: Message) -> Arrived:
    return Arrived(
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )


def ids(messages: Iterable[Any]) -> list[str]:
    """Return the ids of records, or of what has arrived."""
    return [message.id for message in messages]


def ids_by_key(messages: Iterable[Record] | Iterable[Arrived]) -> dict[bytes, list[str]]:
    """Return the ids of records, or of what has arrived, of each key in order; b"" for none."""
    found: dict[bytes, list[str]] = {}
    for message in messages:
        key = message.key.encode() if isinstance(message.key, str) else message.key
        found.setdefault(key or b"", []).append(message.id)
    return found
