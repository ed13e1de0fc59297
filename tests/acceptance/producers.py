"""Who sent which message: Kafka keeps a producer's id with each batch and shows it to no client."""

from __future__ import annotations

import re
import subprocess
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.kafka_programs import java_command

if TYPE_CHECKING:
    from tests.servers.kafka import KafkaCluster

_PARTITION = re.compile(r"^Dumping .*-(\d+)/\d+\.log$", re.MULTILINE)
_BATCH = re.compile(r"^baseOffset: (\d+) .*? producerId: (\d+) ", re.MULTILINE)


class Producers:
    """The producers of a topic's messages, as the broker's files name them now."""

    def __init__(self, broker: KafkaCluster, topic: str) -> None:
        parts = _PARTITION.split(_dump(broker, topic))[1:]
        self._batches = {
            int(partition): [(int(offset), producer) for offset, producer in _BATCH.findall(text)]
            for partition, text in zip(parts[::2], parts[1::2], strict=True)
        }

    @property
    def all(self) -> set[str]:
        return {producer for batches in self._batches.values() for _, producer in batches}

    def of(self, partition: int, offset: int) -> str:
        """Return the id of the producer that sent a message."""
        batches = self._batches[partition]
        return batches[bisect_right(batches, offset, key=lambda batch: batch[0]) - 1][1]


def late_of(broker: KafkaCluster, topic: str, old: set[str]) -> tuple[int, int]:
    """Count the messages of `old` producers that lie behind newer ones', and the new among them.

    A message is new where it lies for the first time in its partition.
    """
    producers = Producers(broker, topic)
    overtaken: set[int | None] = set()
    seen: set[tuple[object, ...]] = set()
    late = new = 0
    for message in broker.read(topic):
        partition, offset = message.partition(), message.offset()
        identity = partition, message.key(), message.value()
        if producers.of(partition or 0, offset or 0) not in old:
            overtaken.add(partition)
        elif partition in overtaken:
            late += 1
            new += identity not in seen
        seen.add(identity)
    return late, new


def _dump(broker: KafkaCluster, topic: str) -> str:
    # Where the broker keeps its files is nobody else's business, but there is no other way.
    files = sorted(Path(broker.broker(1)._home).glob(f"data/{topic}-*/*.log"))
    command = [*java_command(), "kafka.tools.DumpLogSegments", "--files", ",".join(map(str, files))]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
