"""Compare what a topic holds with what was committed.

Messages of a key are numbered 1, 2, 3, … in the order in which the database admitted them, so
the true order is known without asking anything that is under test.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Occurrence(NamedTuple):
    """A message as it lies in a topic."""

    partition: int
    key: str
    number: int


@dataclass(frozen=True)
class Findings:
    """What was found. `committed` and `repeats` aside, everything should be zero.

    `rewinds`: the most in one partition; each is a run of messages that were sent again from some
    point on. `jumps`: places where such a run leaves something out, or is not in the first order.
    """

    committed: int
    lost: int
    phantoms: int
    reordered: int
    repeats: int
    rewinds: int
    jumps: int

    @property
    def faults(self) -> int:
        return self.lost + self.phantoms + self.reordered


def examine(topic: Iterable[Occurrence], committed: Mapping[str, int]) -> Findings:
    """Compare the messages of a topic, in order, with the last number of each key."""
    seen: defaultdict[str, list[int]] = defaultdict(list)
    partitions: defaultdict[int, _Partition] = defaultdict(_Partition)
    for occurrence in topic:
        if partitions[occurrence.partition].take(occurrence):
            seen[occurrence.key].append(occurrence.number)
    true = {key: range(1, last + 1) for key, last in committed.items()}
    return Findings(
        committed=sum(committed.values()),
        lost=sum(len(set(numbers) - set(seen[key])) for key, numbers in true.items()),
        phantoms=sum(len(set(found) - set(true.get(key, ()))) for key, found in seen.items()),
        reordered=sum(_falls(found) for found in seen.values()),
        repeats=sum(partition.repeats for partition in partitions.values()),
        rewinds=max((partition.rewinds for partition in partitions.values()), default=0),
        jumps=sum(partition.jumps for partition in partitions.values()),
    )


class _Partition:
    """How the messages of one partition follow each other."""

    def __init__(self) -> None:
        self._places: dict[Occurrence, int] = {}
        self._at = -1
        self.repeats = self.rewinds = self.jumps = 0

    def take(self, occurrence: Occurrence) -> bool:
        """Take the next message; return whether it is there for the first time."""
        first = occurrence not in self._places
        place = self._places.setdefault(occurrence, len(self._places))
        self.repeats += not first
        self.rewinds += place <= self._at
        self.jumps += place > self._at + 1
        self._at = place
        return first


def _falls(numbers: list[int]) -> int:
    return sum(later < earlier for earlier, later in pairwise(numbers))
