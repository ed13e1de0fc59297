"""What is known of topics before anything is sent to them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from outbox.errors import BrokerUnavailable
from outbox.headers import WireHeaders
from outbox.publishers.base import PageRefused, TopicUnavailable
from outbox.publishers.faults import Fault, fault_of
from outbox.publishers.refusing import why_closed
from outbox.publishers.sizes import batch_size, client_size
from outbox.record import Record, payload_sizes

logger = logging.getLogger("outbox.relay")

#: Kafka's default `max.message.bytes`, of a batch with its overhead.
_DEFAULT_LIMIT = 1_048_588

#: librdkafka's default `message.max.bytes`.
_CLIENTS_DEFAULT = 1_000_000

#: Room for what Kafka adds: the batch's header (61 bytes), the record's own lengths.
_OVERHEAD = 512

#: A topic's settings are asked for again, before a message is refused, after so many seconds.
_FRESH_S = 1.0

#: How often, in seconds, to look whether topics have more partitions by now; as Kafka's clients do.
_RECOUNT_S = 300.0

#: Well within a lease: the relay cannot renew it while it waits for an answer.
_ASK_TIMEOUT_S = 2.0


class TopicLimits:
    """The topics met so far: that they exist, and how large a message they take."""

    def __init__(self, properties: Mapping[str, object]) -> None:
        self._properties = properties
        self._creates = str(properties.get("allow.auto.create.topics")).lower() == "true"
        self._compresses = properties.get(
            "compression.type", properties.get("compression.codec", "none")
        ) not in ("none", None)
        self._client_limit = int(str(properties.get("message.max.bytes", _CLIENTS_DEFAULT)))
        self._partitions: dict[str, int] = {}
        self._counted_at: dict[str, float] = {}
        self._can_ask = True
        self._asked: set[str] = set()
        self._asked_at: dict[str, float] = {}
        self._limits: dict[str, int] = {}
        self._compacted: set[str] = set()
        # Names that no topic can have, and what Kafka says of each.
        self._impossible: dict[str, str] = {}

    @property
    def smallest_batch(self) -> int:
        """Return the largest batch, in bytes, that every topic met so far takes."""
        return max(min([_DEFAULT_LIMIT, *self._limits.values()]) - _OVERHEAD, 1)

    def know(self, metadata: Any) -> None:
        """Take the topics of a cluster's metadata as existing."""
        for name, topic in metadata.topics.items():
            if topic.error is None:
                self._count(name, topic)
        # The question about settings goes to the controller; a mock cluster has none.
        self._can_ask = metadata.controller_id in metadata.brokers

    def _count(self, name: str, topic: Any) -> None:
        self._partitions[name] = len(topic.partitions)
        self._counted_at[name] = time.monotonic()

    def partition_count(self, topic: str) -> int | None:
        """Return how many partitions a topic has, None if that is not known."""
        return self._partitions.get(topic)

    def meet(self, topics: set[str], client: Any) -> None:
        """Look up topics not met before. Raises TopicUnavailable for those that do not exist."""
        self._count_again(topics & self._asked, client)
        new = topics - self._asked - self._impossible.keys()
        if not new:
            return
        reasons = {topic: self._look_up(topic, client) for topic in new - self._partitions.keys()}
        missing = {topic: reason for topic, reason in sorted(reasons.items()) if reason}
        if missing:
            raise TopicUnavailable(next(iter(missing.values())), missing)
        new -= self._impossible.keys()
        if self._can_ask and new:
            self._ask_settings(sorted(new))
        self._asked |= new

    def _look_up(self, topic: str, client: Any) -> str | None:
        """Return why a topic cannot be written to, None if it can, or if no topic has that name."""
        from confluent_kafka import KafkaException

        try:
            found = client.list_topics(topic, timeout=_ASK_TIMEOUT_S).topics[topic]
        except KafkaException as error:
            raise BrokerUnavailable(
                f"Kafka did not answer a question about topic {topic!r}: {error.args[0].str()}"
            ) from error
        if found.error is not None and fault_of(found.error.name()) is Fault.MESSAGE:
            self._impossible[topic] = found.error.str().removeprefix("Broker: ")
            return None
        if found.error is not None and not self._creates:
            return why_closed(topic, found.error.str())
        if found.error is None:
            self._count(topic, found)
        return None

    def _count_again(self, topics: set[str], client: Any) -> None:
        """Look now and then whether topics have more partitions.

        Never fewer: a broker that lags behind would have keys go back to where they were.
        """
        from confluent_kafka import KafkaException

        now = time.monotonic()
        due = [each for each in topics if now - self._counted_at.get(each, -math.inf) > _RECOUNT_S]
        self._counted_at |= dict.fromkeys(due, now)
        for topic in due:
            try:
                found = client.list_topics(topic, timeout=_ASK_TIMEOUT_S).topics[topic]
            except KafkaException as error:
                # Whoever does not answer once is not asked again: the lease would run out.
                logger.debug("partitions of %s cannot be counted: %s", topic, error)
                return
            if found.error is None and len(found.partitions) > self._partitions.get(topic, 0):
                self._count(topic, found)

    def _ask_settings(self, topics: list[str]) -> None:
        """Ask how large messages may be, and whether they need keys, where we may ask that."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient, ConfigResource

        self._asked_at |= dict.fromkeys(topics, time.monotonic())
        admin = AdminClient(connection_properties(self._properties))
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        futures = admin.describe_configs(resources, request_timeout=_ASK_TIMEOUT_S)
        for resource, future in futures.items():
            try:
                settings = future.result()
                self._limits[resource.name] = int(settings["max.message.bytes"].value)
                if "compact" in str(settings["cleanup.policy"].value).split(","):
                    self._compacted.add(resource.name)
            except (KafkaException, KeyError, ValueError, TypeError) as error:
                logger.debug("settings of %s cannot be read: %s", resource.name, error)

    def refuse(self, records: list[Record], wires: list[WireHeaders]) -> None:
        """Raise PageRefused for messages that their topic, or the client, does not take.

        Where messages are compressed, or the topic's limit is not known, the broker has the last
        word. `wires`: the headers of each message.
        """
        # Sizes are taken to the byte only of what may be too large; headers alone never make it so.
        suspicious = min([self._client_limit, *self._limits.values()]) // 2
        is_light = max(payload_sizes(records), default=0) <= suspicious
        if is_light and not self._compacted and not self._impossible:
            return
        suspects = [
            index for index, record in enumerate(records) if len(record[4] or b"") > suspicious
        ]
        if not self._reasons(records, wires, suspects):
            return
        # Somebody may have changed the topic since we asked.
        self._ask_again({record[2] for record in records})
        if reasons := self._reasons(records, wires, suspects):
            raise PageRefused(reasons)

    def _ask_again(self, topics: set[str]) -> None:
        latest = time.monotonic() - _FRESH_S
        old = [topic for topic in topics if self._asked_at.get(topic, latest) < latest]
        if old:
            self._compacted.difference_update(old)
            self._ask_settings(sorted(old))

    def _reasons(
        self, records: list[Record], wires: list[WireHeaders], suspects: list[int]
    ) -> dict[int, str]:
        oversized = {index: self._why_oversized(records[index], wires[index]) for index in suspects}
        reasons = {index: reason for index, reason in oversized.items() if reason}
        reasons |= self._without_keys(records) if self._compacted else {}
        return reasons | (self._nowhere(records) if self._impossible else {})

    def _nowhere(self, records: list[Record]) -> dict[int, str]:
        return {
            index: (
                f"message {record[1]}: no topic can be called {record[2]!r} "
                f"({self._impossible[record[2]]}). Write it with another topic, and discard this "
                "one with `outbox-relay held discard`"
            )
            for index, record in enumerate(records)
            if record[2] in self._impossible
        }

    def _without_keys(self, records: list[Record]) -> dict[int, str]:
        return {
            index: (
                f"message {record[1]} has no key, and topic {record[2]!r} is compacted: it takes "
                "no message without one. Write it with a key, or change the topic's cleanup.policy"
            )
            for index, record in enumerate(records)
            if record[3] is None and record[2] in self._compacted
        }

    def _why_oversized(self, record: Record, wire: WireHeaders) -> str | None:
        _, id_, topic, *_ = record
        if (size := client_size(record, wire)) > self._client_limit:
            return (
                f"message {id_} for topic {topic!r} is too large for the relay's message.max.bytes:"
                f" {size} bytes with key and headers, {self._client_limit} are allowed. Raise"
                " message.max.bytes"
            )
        limit = self._limits.get(topic)
        if limit is None or self._compresses:
            return None
        if (size := batch_size(record, wire)) > limit:
            return (
                f"message {id_} is too large for topic {topic!r}: {size} bytes with key and"
                f" headers, the topic takes {limit}. Raise the topic's max.message.bytes (and the"
                " relay's message.max.bytes)"
            )
        return None


def connection_properties(properties: Mapping[str, object]) -> dict[str, object]:
    """Return those of a producer's properties that say how to reach the broker."""
    return {
        name: value
        for name, value in properties.items()
        if name in _CONNECTION_KEYS or name.split(".")[0] in ("ssl", "sasl", "security")
    }


_CONNECTION_KEYS = frozenset(
    {
        "bootstrap.servers",
        "metadata.broker.list",
        "client.id",
        "log_level",
        "socket.timeout.ms",
        "broker.address.family",
        "oauth_cb",
        "socket.keepalive.enable",
        "reconnect.backoff.ms",
        "reconnect.backoff.max.ms",
    }
)
