"""What is known of topics before anything is sent to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from outbox.errors import BrokerUnavailable, MessageRefused
from outbox.headers import WireHeaders
from outbox.publishers.base import TopicUnavailable
from outbox.publishers.sizes import batch_size, client_size
from outbox.record import Record, payload_sizes

logger = logging.getLogger("outbox.relay")

#: Kafka's default `max.message.bytes`, of a batch with its overhead.
_DEFAULT_LIMIT = 1_048_588

#: librdkafka's default `message.max.bytes`.
_CLIENTS_DEFAULT = 1_000_000

#: Room for what Kafka adds: the batch's header (61 bytes), the record's own lengths.
_OVERHEAD = 512

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
        self._can_ask = True
        self._asked: set[str] = set()
        self._limits: dict[str, int] = {}

    @property
    def smallest_batch(self) -> int:
        """Return the largest batch, in bytes, that every topic met so far takes."""
        return max(min([_DEFAULT_LIMIT, *self._limits.values()]) - _OVERHEAD, 1)

    def know(self, metadata: Any) -> None:
        """Take the topics of a cluster's metadata as existing."""
        for name, topic in metadata.topics.items():
            if topic.error is None:
                self._partitions[name] = len(topic.partitions)
        # The question about settings goes to the controller; a mock cluster has none.
        self._can_ask = metadata.controller_id in metadata.brokers

    def partition_count(self, topic: str) -> int | None:
        """Return how many partitions a topic has, None if that is not known."""
        return self._partitions.get(topic)

    def meet(self, topics: set[str], client: Any) -> None:
        """Look up topics not met before. Raises TopicUnavailable for one that does not exist."""
        new = topics - self._asked
        if not new:
            return
        for topic in sorted(new - self._partitions.keys()):
            self._look_up(topic, client)
        if self._can_ask:
            self._limits.update(self._ask_limits(sorted(new)))
        self._asked |= new

    def _look_up(self, topic: str, client: Any) -> None:
        from confluent_kafka import KafkaException

        try:
            found = client.list_topics(topic, timeout=_ASK_TIMEOUT_S).topics[topic]
        except KafkaException as error:
            raise BrokerUnavailable(
                f"Kafka did not answer a question about topic {topic!r}: {error.args[0].str()}"
            ) from error
        if found.error is not None and not self._creates:
            raise TopicUnavailable(
                f"topic {topic!r}: {found.error.str().removeprefix('Broker: ')}; create the topic "
                "or grant the relay the right to write to it. Nothing is lost meanwhile"
            )
        if found.error is None:
            self._partitions[topic] = len(found.partitions)

    def _ask_limits(self, topics: list[str]) -> dict[str, int]:
        """Return `max.message.bytes` of topics, but for those that we may not ask about."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient, ConfigResource

        admin = AdminClient(connection_properties(self._properties))
        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        limits = {}
        futures = admin.describe_configs(resources, request_timeout=_ASK_TIMEOUT_S)
        for resource, future in futures.items():
            try:
                limits[resource.name] = int(future.result()["max.message.bytes"].value)
            except (KafkaException, KeyError, ValueError, TypeError) as error:
                logger.debug("max.message.bytes of %s cannot be read: %s", resource.name, error)
        return limits

    def refuse_oversized(self, records: list[Record], wires: list[WireHeaders]) -> None:
        """Raise MessageRefused for a message that its topic, or the client, does not take.

        Where messages are compressed, or the topic's limit is not known, the broker has the last
        word. `wires`: the headers of each message.
        """
        # Sizes are taken to the byte only of what may be too large; headers alone never make it so.
        suspicious = min([self._client_limit, *self._limits.values()]) // 2
        if max(payload_sizes(records), default=0) <= suspicious:
            return
        for record, wire in zip(records, wires, strict=True):
            payload = record[4]
            if payload is not None and len(payload) > suspicious:
                self._refuse_if_oversized(record, wire)

    def _refuse_if_oversized(self, record: Record, wire: WireHeaders) -> None:
        _, id_, topic, *_ = record
        if (size := client_size(record, wire)) > self._client_limit:
            raise MessageRefused(
                f"message {id_} for topic {topic!r} is too large for the relay's message.max.bytes:"
                f" {size} bytes with key and headers, {self._client_limit} are allowed. Raise"
                f" message.max.bytes. {_NOTHING_IS_LOST}"
            )
        limit = self._limits.get(topic)
        if limit is None or self._compresses:
            return
        if (size := batch_size(record, wire)) > limit:
            raise MessageRefused(
                f"message {id_} is too large for topic {topic!r}: {size} bytes with key and"
                f" headers, the topic takes {limit}. Raise the topic's max.message.bytes (and the"
                f" relay's message.max.bytes). {_NOTHING_IS_LOST}"
            )


def connection_properties(properties: Mapping[str, object]) -> dict[str, object]:
    """Return those of a producer's properties that say how to reach the broker."""
    return {
        name: value
        for name, value in properties.items()
        if name in _CONNECTION_KEYS or name.split(".")[0] in ("ssl", "sasl", "security")
    }


_NOTHING_IS_LOST = "The relay stops here so that the order is kept; nothing is lost"

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
        "reconnect.backoff.max.ms",
    }
)
