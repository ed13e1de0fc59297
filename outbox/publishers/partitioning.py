"""Which partition a message goes to, known before it is sent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final

from outbox.record import Record

#: A topic and the number of one of its partitions.
Place = tuple[str, int]

#: librdkafka chooses.
ANY_PARTITION: Final = -1

_topic = itemgetter(2)
_key = itemgetter(3)


def partitions_of(
    records: Sequence[Record], partition_count: Callable[[str], int | None]
) -> list[int]:
    """Return each message's partition, ANY_PARTITION for those without a key.

    As Java's clients choose it, and as librdkafka's `murmur2_random` does. `partition_count`: of a
    topic; the messages of one whose count is not known go where librdkafka puts them.
    """
    from confluent_kafka import murmur2

    topics, keys = list(map(_topic, records)), list(map(_key, records))
    counts = {topic: partition_count(topic) or 0 for topic in set(topics)}
    if None not in keys and all(counts.values()):  # all of it in C
        return list(map(murmur2, map(str.encode, keys), map(counts.__getitem__, topics)))
    return [
        ANY_PARTITION if key is None or not counts[topic] else murmur2(key.encode(), counts[topic])
        for topic, key in zip(topics, keys, strict=True)
    ]


def places_of(records: Sequence[Record], partitions: Sequence[int]) -> list[Place | None]:
    """Return where each message goes, None where no order need be kept: it has no key.

    All messages of a topic whose partitions nobody knows are taken to go to the same one.
    """
    found = zip(map(_key, records), map(_topic, records), partitions, strict=True)
    return [None if key is None else (topic, partition) for key, topic, partition in found]


def runs_of(records: Sequence[Record], partitions: Sequence[int]) -> list[list[int]]:
    """Return the indexes of the messages of each partition, in order."""
    runs: defaultdict[Place, list[int]] = defaultdict(list)
    for index, place in enumerate(zip(map(_topic, records), partitions, strict=True)):
        runs[place].append(index)
    return list(runs.values())
