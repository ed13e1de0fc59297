"""By which streams the messages of a lane have gone, one generation of lanes after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from outbox.store.lanes import DEFAULT_LANE, Topology

_NEVER: tuple[int, ...] = ()


class Courses:
    """What is known of them. `streams`: the names of the numbered streams of the present log.

    A stream begins with a generation when those that had its keys have delivered all of the one
    before. So in the order of a key no stream comes that had its messages in earlier ones only.
    """

    def __init__(self, topologies: Sequence[Topology], streams: Mapping[int, str]) -> None:
        self._topologies = topologies
        self._streams = streams
        self._known = {stream for each in topologies for stream in each.streams}
        self._generations: dict[tuple[str | None, int], tuple[int, ...]] = {}

    def turn(self, lane: str | None, stream: int, generation: int) -> int | None:
        """Return in which generation, from one on, a lane's messages may go by a stream.

        None if in none of them. Of a stream that nothing is known of, it may be any.
        """
        if self._streams.get(stream) not in self._known:
            return generation
        course = (lane, stream)
        if course not in self._generations:
            self._generations[course] = self._of(lane, self._streams[stream])
        return next((g for g in self._generations[course] if g >= generation), None)

    def _of(self, lane: str | None, stream: str) -> tuple[int, ...]:
        found = _NEVER
        for topology in self._topologies:
            declared = topology.lanes.get(lane or DEFAULT_LANE) or topology.lanes[DEFAULT_LANE]
            if stream in declared.streams:
                found = (*found, topology.generation)
        return found
