"""Partitions on which the broker does not know our producer yet."""

from __future__ import annotations

from collections.abc import Callable


class ColdPartitions:
    """Tells when the next message must wait for the one before it.

    A broker accepts any first sequence number of a producer on a partition. If it refuses the first
    message there for good, it still accepts the request that follows, although one at a time is in
    flight and no gap is allowed: the second message of a key overtook the first in 29 of 30 runs on
    Kafka 3.9. Once one message is acknowledged on a partition, sequence numbers prevent it (0 of
    30). So of the messages for a cold partition the first goes alone.
    """

    def __init__(self, partition_count: Callable[[str], int | None]) -> None:
        """`partition_count`: of a topic, None where it is not known."""
        self._partition_count = partition_count
        self._warm: set[tuple[str, int]] = set()
        self._sent: set[tuple[str, int]] = set()
        self._warm_topics: set[str] = set()

    def among(self, topics: set[str]) -> set[str]:
        """Return the topics that have partitions we have had no acknowledgement from."""
        return topics - self._warm_topics

    def must_wait(self, topic: str, key: str) -> bool:
        """Return whether everything sent must be acknowledged before this message is sent."""
        place = topic, self._partition(topic, key)
        if place in self._warm:
            return False
        if place in self._sent:
            return True
        self._sent.add(place)
        return False

    def acknowledged(self, topic: str, key: str) -> None:
        """Take it that everything sent is acknowledged, and that this message is sent next."""
        self._warm |= self._sent
        self._sent.clear()
        self._warm.add((topic, self._partition(topic, key)))
        count = self._partition_count(topic)
        if count is not None and all((topic, n) in self._warm for n in range(count)):
            self._warm_topics.add(topic)

    def _partition(self, topic: str, key: str) -> int:
        """Return where librdkafka's `murmur2_random` puts a key; 0 where nobody can know."""
        from confluent_kafka import murmur2

        count = self._partition_count(topic)
        return murmur2(key.encode(), count) if count else 0
