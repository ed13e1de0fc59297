"""How the streams of a relay name are shared among its processes: a pure decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from outbox.store.base import Stream


def share(streams: Sequence[Stream], processes: Sequence[str]) -> dict[str, str]:
    """Return which process each stream should be with, by the stream's name.

    Every process comes to the same result from the same state, without asking the others. Each gets
    as many as any other, give or take one, and whoever has a stream keeps it where that allows.

    >>> share([Stream("a", "p", False, 0), Stream("b", "p", False, 0)], ["p", "q"])
    {'a': 'p', 'b': 'q'}
    """
    ordered = sorted(streams, key=lambda stream: (-stream.priority, stream.name))
    holders = {stream.name: _holder(stream, processes) for stream in ordered}
    room = _room(len(ordered), Counter(filter(None, holders.values())), processes)
    placed: dict[str, str] = {}
    for name, holder in holders.items():
        if holder is not None and room[holder]:
            room[holder] -= 1
            placed[name] = holder
    for name in holders:
        if name not in placed:
            process = max(sorted(processes), key=lambda each: room[each])
            room[process] -= 1
            placed[name] = process
    return {stream.name: placed[stream.name] for stream in streams}


def _holder(stream: Stream, processes: Sequence[str]) -> str | None:
    held = stream.owner in processes and not stream.expired
    return stream.owner if held else None


def _room(count: int, held: Counter[str], processes: Sequence[str]) -> dict[str, int]:
    """Return how many streams each process should have; who has the most gets what is left over."""
    least, left_over = divmod(count, len(processes))
    by_number = sorted(processes, key=lambda process: (-held[process], process))
    return {process: least + (place < left_over) for place, process in enumerate(by_number)}
