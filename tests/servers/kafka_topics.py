"""Topics of a running Kafka: create them, read them whole, read them with Java's own client."""

from __future__ import annotations

import secrets
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec, PartitionMetadata

from tests.servers.kafka_programs import java_command
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Separators of the console consumer's output that no text in a test contains.
RECORD, FIELD, HEADER, NULL = "\x1e", "\x1f", "\x1d", "\x1c"
#: How long a transaction may stay open until it is taken for one that does.
OPEN_S = 5.0
QUIET = {"log_level": 0}  # a broker that a test takes down is no news


@dataclass(frozen=True)
class ForeignMessage:
    """A record as Java's console consumer printed it."""

    partition: int
    offset: int
    headers: tuple[tuple[str, str | None], ...]
    key: str | None
    value: bytes | None


class KafkaServer:
    """A running Kafka, known by its address alone."""

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers

    @property
    def bootstrap_servers(self) -> str:
        """What a client takes as `bootstrap.servers`."""
        return self._bootstrap_servers

    def create_topic(
        self,
        name: str | None = None,
        partitions: int = 6,
        *,
        replica_assignment: Sequence[Sequence[int]] | None = None,
        **config: str,
    ) -> str:
        """Create a topic, wait until it can be written and read, return its name.

        `config` takes topic settings with underscores for dots. `replica_assignment` lists
        the brokers of each partition, the preferred leader first, and replaces `partitions`.
        """
        name = name or f"topic-{secrets.token_hex(6)}"
        placement = {"replica_assignment": replica_assignment} if replica_assignment else {}
        partitions = len(replica_assignment) if replica_assignment else partitions
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, **QUIET})
        topic = NewTopic(name, partitions, config=settings, **placement)
        admin.create_topics([topic])[name].result(30)
        wait_until(lambda: _usable(admin, name, partitions), what=f"leaders for topic {name}")
        return name

    def describe(self, topic: str) -> dict[int, PartitionMetadata]:
        """Return the partitions of a topic: `leader`, `replicas`, `isrs`."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, **QUIET})
        partitions: dict[int, PartitionMetadata] = (
            admin.list_topics(topic, 10).topics[topic].partitions
        )
        return partitions

    def read(
        self, topic: str, timeout: float = 30.0, *, isolation_level: str = "read_committed"
    ) -> list[Message]:
        """Return all messages up to the present end, by partition and offset.

        Kafka shows the end of a transaction a moment after it has confirmed it; this is waited for,
        and no longer than `OPEN_S` where one stays open. Raises AssertionError after `timeout`
        seconds.
        """
        if isolation_level == "read_committed":
            self._wait_for_transactions(topic)
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": f"reader-{secrets.token_hex(6)}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
                "isolation.level": isolation_level,
                **QUIET,
            }
        )
        try:
            return _read_to_end(consumer, topic, time.monotonic() + timeout)
        finally:
            consumer.close()

    def _wait_for_transactions(self, topic: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, **QUIET})
        partitions = admin.list_topics(topic, timeout=10).topics[topic].partitions
        deadline = time.monotonic() + OPEN_S
        ends: dict[int, int] = {}
        while time.monotonic() < deadline:
            with suppress(KafkaException):  # a partition may have no leader for a moment
                ends = ends or _offsets(admin, topic, partitions, IsolationLevel.READ_UNCOMMITTED)
                seen = _offsets(admin, topic, partitions, IsolationLevel.READ_COMMITTED)
                if all(seen[number] >= ends[number] for number in ends):
                    return

    def foreign_read(
        self, topic: str, timeout: float = 60.0, *, isolation_level: str = "read_committed"
    ) -> list[ForeignMessage]:
        """Return all messages as Java's console consumer prints them, by partition and offset.

        For text: control characters separate the fields of its output.
        """
        expected = len(self.read(topic, timeout, isolation_level=isolation_level))
        if expected == 0:
            return []
        command = java_command() + _console_consumer(self.bootstrap_servers, topic)
        limits = ["--isolation-level", isolation_level, "--max-messages", str(expected)]
        done = subprocess.run([*command, *limits], capture_output=True, timeout=timeout)
        if done.returncode:
            raise AssertionError(f"the console consumer failed: {done.stderr.decode()}")
        records = done.stdout.split(RECORD.encode())[:-1]
        return sorted(map(_parse, records), key=lambda record: (record.partition, record.offset))


def _offsets(
    admin: AdminClient, topic: str, partitions: Iterable[int], isolation: IsolationLevel
) -> dict[int, int]:
    wanted = {TopicPartition(topic, number): OffsetSpec.latest() for number in partitions}
    found = admin.list_offsets(wanted, isolation_level=isolation)
    return {partition.partition: future.result(10).offset for partition, future in found.items()}


def _usable(admin: AdminClient, name: str, partitions: int) -> bool:
    topic = admin.list_topics(name, timeout=10).topics[name]
    if len(topic.partitions) != partitions:
        return False
    if any(partition.leader < 0 for partition in topic.partitions.values()):
        return False
    # A broker can be named as a leader before it knows it; then it does not answer this.
    wanted = {TopicPartition(name, number): OffsetSpec.latest() for number in range(partitions)}
    return all(_answered(found) for found in admin.list_offsets(wanted).values())


def _answered(found: object) -> bool:
    try:
        found.result(10)  # type: ignore[attr-defined] # the client has no types
    except KafkaException:
        return False
    return True


def _read_to_end(consumer: Consumer, topic: str, deadline: float) -> list[Message]:
    open_ends = _ends(consumer, topic)
    consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in open_ends])
    messages: list[Message] = []
    while open_ends:
        if time.monotonic() >= deadline:
            raise AssertionError(f"could not read {topic} to its end: partitions {open_ends} left")
        for message in consumer.consume(1000, timeout=0.05):
            _take(message, messages, open_ends)
    return sorted(messages, key=lambda message: (message.partition(), message.offset()))


def _ends(consumer: Consumer, topic: str) -> dict[int, int]:
    """Return the present end of every partition that is not empty."""
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    limits = {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
        for number in partitions
    }
    return {number: high for number, (low, high) in limits.items() if high > low}


def _take(message: Message, messages: list[Message], open_ends: dict[int, int]) -> None:
    error = message.error()
    if error is None:
        # What came in after the end was taken is not returned.
        if message.offset() < open_ends.get(message.partition(), 0):
            messages.append(message)
        if message.offset() + 1 >= open_ends.get(message.partition(), 0):
            open_ends.pop(message.partition(), None)
    elif error.code() == KafkaError._PARTITION_EOF:
        # The last records before an end may be marks of transactions, which no reader sees.
        open_ends.pop(message.partition(), None)
    elif not error.retriable():
        raise KafkaException(error)


def _console_consumer(bootstrap_servers: str, topic: str) -> list[str]:
    properties = {
        "print.partition": "true",
        "print.offset": "true",
        "print.headers": "true",
        "print.key": "true",
        "print.value": "true",
        "key.separator": FIELD,
        "line.separator": RECORD,
        "headers.separator": HEADER,
        "null.literal": NULL,
    }
    settings = [
        word for name in properties for word in ("--property", f"{name}={properties[name]}")
    ]
    return [
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        *["--bootstrap-server", bootstrap_servers, "--topic", topic, "--from-beginning"],
        *["--timeout-ms", "20000", *settings],
    ]


def _parse(record: bytes) -> ForeignMessage:
    partition, offset, headers, key, value = record.split(FIELD.encode(), 4)
    return ForeignMessage(
        partition=int(partition.removeprefix(b"Partition:")),
        offset=int(offset.removeprefix(b"Offset:")),
        headers=_parse_headers(headers.decode()),
        key=_or_none(key.decode()),
        value=None if value.decode(errors="replace") == NULL else value,
    )


def _parse_headers(text: str) -> tuple[tuple[str, str | None], ...]:
    if text == "NO_HEADERS":
        return ()
    pairs = [pair.partition(":") for pair in text.split(HEADER)]
    return tuple((name, _or_none(value)) for name, _, value in pairs)


def _or_none(text: str) -> str | None:
    return None if text == NULL else text
