"""What can be told from the order of records. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

Group = TypeVar("Group", bound=Hashable)
Item = TypeVar("Item")
Place = tuple[int, int]


def stragglers(records: Iterable[tuple[Group, Place, Item]]) -> Iterator[Item]:
    """Yield those that lie behind one of their group with a higher place.

    `records` come group by group, each in the order of the topic.

    >>> list(stragglers([("a", (1, 5), "x"), ("a", (2, 3), "y"), ("a", (1, 9), "z")]))
    ['z']
    """
    now: Group | None = None
    highest: Place = (-1, -1)
    for group, place, item in records:
        if group != now:
            now, highest = group, (-1, -1)
        if place < highest:
            yield item
        highest = max(highest, place)


def ends_of_runs(firsts: Iterable[tuple[Group, Place, bool, Item]]) -> Iterator[tuple[Item, Place]]:
    """Yield those that came again, each with the highest place of the run that came again with it.

    `firsts` are first occurrences, group by group, each group **from its end**: with its place, and
    whether it came again. A run is a piece of which all came again.
    """
    now: Group | None = None
    end: Place | None = None
    for group, place, again, item in firsts:
        if group != now or not again:
            now, end = group, None
        if again:
            end = place if end is None else max(end, place)
            yield item, end


def out_of_place(
    records: Iterable[tuple[Group, Place, Place | None, Item]],
) -> Iterator[Item]:
    """Yield the repetitions that are no part of a piece that was sent again as a whole.

    A relay that takes over sends everything again from the last place it knows to be confirmed,
    before it goes on. So when a repetition is written, nothing beyond the end of its run has been:
    `records` come group by group in the order of the topic, each with its place and, where it is a
    repetition, the end of its run.
    """
    now: Group | None = None
    highest: Place = (-1, -1)
    for group, place, end, item in records:
        if group != now:
            now, highest = group, (-1, -1)
        if end is not None and highest > end:
            yield item
        highest = max(highest, place)
