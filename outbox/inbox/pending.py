"""Messages that were taken from Kafka and have not taken effect yet."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outbox.inbox.received import KafkaMessage

Partition = tuple[str, int]


@dataclass(slots=True)
class Waiting:
    """A message and when it is its turn, on the monotonic clock."""

    partition: Partition
    message: KafkaMessage
    due: float
    failures: int = 0


class Pending:
    """Whose turn it is: the messages at hand, in the order of each partition.

    A message leaves only when it was processed, or when its partition went to another consumer.
    Normally there is one at most. After a failure there is one for each partition that waits: such
    a partition is paused, and the others go on.
    """

    def __init__(self) -> None:
        self._queues: dict[Partition, deque[Waiting]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def partitions(self) -> set[Partition]:
        """The partitions that must not deliver more for now."""
        return set(self._queues)

    def add(self, partition: Partition, message: KafkaMessage, now: float) -> None:
        """Take in a message that Kafka delivered."""
        # Should a paused partition deliver all the same, its messages queue up in their order.
        self._queues.setdefault(partition, deque()).append(Waiting(partition, message, now))

    def due(self, now: float) -> Waiting | None:
        """Return the message that has been due for longest, if any is."""
        first = self._first()
        return first if first is not None and first.due <= now else None

    def patience(self, now: float, timeout: float) -> float:
        """How many seconds Kafka may be waited for before a message at hand is due."""
        first = self._first()
        return timeout if first is None else min(timeout, max(0.0, first.due - now))

    def done(self, waiting: Waiting) -> None:
        """Forget a message that was processed."""
        queue = self._queues[waiting.partition]
        queue.popleft()
        if not queue:
            del self._queues[waiting.partition]

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget what belongs to another consumer now."""
        for partition in partitions:
            self._queues.pop(partition, None)

    def _first(self) -> Waiting | None:
        heads = (queue[0] for queue in self._queues.values())
        return min(heads, key=lambda waiting: waiting.due, default=None)


def backoff(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after so many failures: doubled each time, jittered by half."""
    # The exponent is bounded because 2.0 ** 1024 is an OverflowError.
    whole = min(longest, first * 2.0 ** min(failures - 1, 64))
    return whole * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
