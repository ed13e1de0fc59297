"""Messages that were taken from Kafka and have not taken effect yet."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from outbox.inbox.received import KafkaMessage

Partition = tuple[str, int]

#: The longest wait, in seconds, that does not let the other partitions go on meanwhile.
BRIEF: Final = 0.5


@dataclass(slots=True)
class Waiting:
    """A message and when it is its turn, on the monotonic clock.

    `at_hand`: its turn comes before Kafka is asked for more, and its partition is not paused.
    """

    partition: Partition
    message: KafkaMessage
    due: float
    at_hand: bool = True
    failures: int = 0

    def postpone(self, now: float, delay: float) -> None:
        """Note a failure; the next attempt is due after `delay` seconds."""
        self.failures += 1
        self.due = now + delay
        # A deadlock or the like is over with the next attempt. Pausing costs more than this wait:
        # the client throws away what it has fetched and needs half a second to fetch it again.
        self.at_hand = self.failures == 1 and delay <= BRIEF


class Pending:
    """Whose turn it is: the messages at hand, in the order of each partition.

    A message leaves only when it was processed, or when its partition went to another consumer.
    Normally there is one at most. After failures there is one for each partition that waits for
    its next attempt: such a partition is paused, and the others go on.
    """

    def __init__(self) -> None:
        self._queues: dict[Partition, deque[Waiting]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    @property
    def waiting_partitions(self) -> set[Partition]:
        """The partitions that must not deliver more for now."""
        return {partition for partition, queue in self._queues.items() if not queue[0].at_hand}

    def add(self, partition: Partition, message: KafkaMessage, now: float) -> Waiting:
        """Take in a message that Kafka delivered."""
        waiting = Waiting(partition, message, now)
        # Should a paused partition deliver all the same, its messages queue up in their order.
        self._queues.setdefault(partition, deque()).append(waiting)
        return waiting

    def at_hand(self) -> Waiting | None:
        """Return a message that comes before Kafka is asked for more."""
        heads = (queue[0] for queue in self._queues.values())
        return next((waiting for waiting in heads if waiting.at_hand), None)

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
