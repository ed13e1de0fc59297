"""Lanes of a log and the streams they consist of: pure decisions, the same for every database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from outbox.errors import ConfigurationError
from outbox.names import check_name

#: The lane of messages that name none, or one that is not declared.
DEFAULT_LANE = "default"

#: More would read the log more often than they could ever make up for.
MAX_SHARDS = 64

_PRIORITIES = range(-1000, 1001)


@dataclass(frozen=True, slots=True)
class Lane:
    """An ordered stream within the log. Higher priorities are served first; messages of a lane with
    several shards are spread over them by their key, so that several processes can share it."""

    name: str
    priority: int = 0
    shards: int = 1

    def __post_init__(self) -> None:
        check_name("lane", self.name)
        if self.priority not in _PRIORITIES:
            raise ConfigurationError(
                f"the priority of lane {self.name!r} is {self.priority}; use -1000 to 1000"
            )
        if not 1 <= self.shards <= MAX_SHARDS:
            raise ConfigurationError(
                f"lane {self.name!r} has {self.shards} shards; use 1 to {MAX_SHARDS}"
            )

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of the streams that are leased: of the lane itself, or of its shards.

        >>> Lane("bulk", shards=2).streams
        ('bulk:0', 'bulk:1')
        """
        if self.shards == 1:
            return (self.name,)
        return tuple(f"{self.name}:{shard}" for shard in range(self.shards))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which messages of the log belong to a stream.

    `lane`: None selects those of no lane and of lanes that are not in `others`.
    """

    lane: str | None
    others: tuple[str, ...]
    shards: int
    shard: int

    @property
    def is_everything(self) -> bool:
        """Return whether every message of the log belongs to it."""
        return self.lane is None and not self.others and self.shards == 1


class Topology:
    """The lanes of one generation. A change of lanes makes a new generation."""

    def __init__(self, generation: int, lanes: Sequence[Lane]) -> None:
        self.generation = generation
        self.lanes = {lane.name: lane for lane in lanes}
        if DEFAULT_LANE not in self.lanes:
            raise ConfigurationError(
                f"the lane {DEFAULT_LANE!r} cannot be removed: messages without a lane go by it"
            )
        self._places = {
            stream: (lane, shard) for lane in lanes for shard, stream in enumerate(lane.streams)
        }

    @property
    def streams(self) -> tuple[str, ...]:
        """Return the names of all streams."""
        return tuple(self._places)

    def lane_of(self, stream: str) -> Lane | None:
        """Return the lane a stream is of, or None if there is no such stream."""
        place = self._places.get(stream)
        return place[0] if place else None

    def selection(self, stream: str) -> Selection:
        """Return which messages belong to a stream. Raises KeyError if there is none such."""
        lane, shard = self._places[stream]
        if lane.name != DEFAULT_LANE:
            return Selection(lane.name, (), lane.shards, shard)
        others = tuple(sorted(name for name in self.lanes if name != DEFAULT_LANE))
        return Selection(None, others, lane.shards, shard)

    def predecessors(self, earlier: Topology, stream: str) -> tuple[str, ...]:
        """Return the earlier streams that may have messages of the keys that `stream` takes over.

        Until these have delivered what was theirs, the stream must not begin with its part: else it
        might overtake them.
        """
        lane = self.lane_of(stream)
        if lane is None:
            return ()
        return tuple(name for name in _before(earlier, self, lane) if name != stream)


def _before(earlier: Topology, later: Topology, lane: Lane) -> Iterator[str]:
    known = earlier.lanes.get(lane.name)
    if known is None:  # what named this lane went by the default one
        yield from earlier.lanes[DEFAULT_LANE].streams
    elif known.shards != lane.shards:
        yield from known.streams
    if lane.name == DEFAULT_LANE:
        for name, gone in earlier.lanes.items():
            if name not in later.lanes:
                yield from gone.streams


def declared(lanes: Mapping[str, Lane], lane: Lane) -> list[Lane]:
    """Return the lanes with this one added, or changed."""
    return sorted({**lanes, lane.name: lane}.values(), key=lambda each: each.name)


def removed(lanes: Mapping[str, Lane], name: str) -> list[Lane]:
    """Return the lanes without this one. Raises ConfigurationError if it is not there."""
    if name not in lanes:
        raise ConfigurationError(f"there is no lane called {name!r}; see `outbox-relay lanes list`")
    return [lane for lane in lanes.values() if lane.name != name]


def same_streams(lanes: Mapping[str, Lane], wanted: Sequence[Lane]) -> bool:
    """Return whether a change leaves every message where it is: one of priorities alone."""
    return {lane.name: lane.shards for lane in lanes.values()} == {
        lane.name: lane.shards for lane in wanted
    }
