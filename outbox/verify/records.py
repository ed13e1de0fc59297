"""A record of a topic, reduced to what is compared."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

from outbox.store.retained import identity

if TYPE_CHECKING:
    from collections.abc import Iterable


class Occurrence(NamedTuple):
    """A record, by where it lies and what it says of itself.

    `stream` stands for all of its position but the numbers; None where it has no position.
    """

    partition: int
    offset: int
    id: bytes
    stream: int | None
    batch: int | None
    seq: int | None


class Streams:
    """The streams of positions that were met, those of one relay name numbered."""

    def __init__(self, log_id: str, relay: str) -> None:
        self._log_id = log_id
        self._relay = relay
        self._numbers: dict[str, int | None] = {}
        #: Streams that belong to the log as it is now, by their numbers. Its id is renewed when its
        #: numbers may be given out anew, and what older ones say can no longer be checked.
        self.current: dict[int, str] = {}

    def number(self, prefix: str) -> int | None:
        """Return the number of `<log id>/<relay>/<lane>`; None for another relay name's."""
        if prefix not in self._numbers:
            self._numbers[prefix] = self._new(prefix)
        return self._numbers[prefix]

    def _new(self, prefix: str) -> int | None:
        log_id, _, rest = prefix.partition("/")
        relay, _, stream = rest.partition("/")
        if relay != self._relay:
            return None
        number = len(self._numbers)
        if log_id == self._log_id:
            self.current[number] = stream
        return number


def occurrence(
    partition: int, offset: int, headers: Iterable[tuple[str, bytes | None]], streams: Streams
) -> Occurrence | None:
    """Return what a record says of itself; None for one of another relay name, or without an id."""
    found: dict[str, bytes | None] = {}
    for name, value in headers:
        if name in ("id", "outbox-position"):
            found.setdefault(name, value)
    id_ = found.get("id")
    if id_ is None:
        return None
    position = found.get("outbox-position")
    if position is None:
        return Occurrence(partition, offset, _identity(id_), None, None, None)
    try:
        prefix, batch, seq = position.decode().rsplit("/", 2)
        stream = streams.number(prefix)
        place = int(batch), int(seq)
    except ValueError:  # no position of ours, whatever it is
        return None
    if stream is None:
        return None
    return Occurrence(partition, offset, _identity(id_), stream, *place)


def _identity(text: bytes) -> bytes:
    return identity(text.decode(errors="replace"))


def key_number(key: str) -> int:
    """Return a number of 63 bits that stands for a key."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest()) >> 1
