"""What can be told from the order of records. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

Group = TypeVar("Group", bound=Hashable)
Item = TypeVar("Item")
Place = tuple[int, int]
Course = tuple[str | None, int]


def stragglers(
    records: Iterable[tuple[Group, Course, Place, Item]],
    turn: Callable[[Course, int], int | None],
) -> Iterator[Item]:
    """Yield those that lie behind one of their group that was to follow them.

    `records` come group by group, each in the order of the topic. A course is a lane and a stream:
    within a stream places rise, and from stream to stream a lane's messages go in the order of the
    generations in which they go by it: `turn` tells the first one from another one on, None if
    there is none any more.

    >>> at = lambda place, item, stream=7: ("key", (None, stream), place, item)
    >>> list(stragglers([at((1, 5), "x"), at((2, 3), "y"), at((1, 9), "z")], lambda *_: 0))
    ['z']
    >>> turns = {7: 0, 8: 1}
    >>> ends = lambda course, now: turns[course[1]] if turns[course[1]] >= now else None
    >>> list(stragglers([at((1, 5), "x"), at((1, 7), "y", 8), at((1, 6), "z")], ends))
    ['z']
    """
    now: Group | None = None
    highest: dict[int, Place] = {}
    generations: dict[str | None, int] = {}
    for group, course, place, item in records:
        if group != now:
            now, highest, generations = group, {}, {}
        lane, stream = course
        generation = turn(course, generations.get(lane, 0))
        if generation is None or place < highest.get(stream, place):
            yield item
        highest[stream] = max(highest.get(stream, place), place)
        generations[lane] = generations.get(lane, 0) if generation is None else generation


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
