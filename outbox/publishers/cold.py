"""Partitions on which the broker does not know our producer yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from outbox.publishers.partitioning import Place


class ColdPartitions:
    """Tells which messages go first, and alone, on the partitions they are for.

    A broker accepts any first sequence number of a producer on a partition. If it refuses the first
    message there for good, it still accepts the request that follows, although one at a time is in
    flight and no gap is allowed: the second message of a key overtook the first in 29 of 30 runs on
    Kafka 3.9. Once one message is acknowledged on a partition, sequence numbers prevent it (0 of
    30). So of the messages for a cold partition the first goes alone; those for other partitions
    need not wait for it, and all that wait do so once.
    """

    def __init__(self, partition_count: Callable[[str], int | None]) -> None:
        """`partition_count`: of a topic, None where it is not known."""
        self._partition_count = partition_count
        self._warm: set[Place] = set()
        self._sent: set[Place] = set()
        self._warm_topics: dict[str, int] = {}

    def forget(self) -> None:
        """Take it that the broker knows our producer nowhere."""
        self._warm.clear()
        self._sent.clear()
        self._warm_topics.clear()

    def any_among(self, topics: set[str]) -> bool:
        """Return whether topics may have partitions that we have had no acknowledgement from."""
        return any(
            self._warm_topics.get(each, -1) != self._partition_count(each) for each in topics
        )

    def firsts(self, places: Sequence[Place | None]) -> list[int]:
        """Return the indexes of the messages that are the first for their places, in order.

        They count as sent from now on. `places`: None where nobody can tell.
        """
        found: list[int] = []
        for index, place in enumerate(places):
            if place is not None and place not in self._warm and place not in self._sent:
                self._sent.add(place)
                found.append(index)
        return found

    def must_wait(self, places: Sequence[Place | None]) -> bool:
        """Return whether what was sent must be acknowledged before messages for these places."""
        return not self._sent.isdisjoint(places)

    def acknowledged(self) -> None:
        """Take it that everything sent is acknowledged."""
        topics = {topic for topic, _ in self._sent}
        self._warm |= self._sent
        self._sent.clear()
        for topic in topics:
            count = self._partition_count(topic)
            if count is not None and all((topic, n) in self._warm for n in range(count)):
                self._warm_topics[topic] = count
