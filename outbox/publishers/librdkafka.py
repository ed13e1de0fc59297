"""librdkafka's producer, its log, its complaints, and the errors its calls raise."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from outbox.errors import BrokerUnavailable, ConfigurationError, MissingExtra

_librdkafka_logger = logging.getLogger("outbox.librdkafka")

#: The size of its queue that librdkafka has by default.
_QUEUE_MESSAGES, _QUEUE_KBYTES = 100_000, 1_048_576


class Complaint:
    """What librdkafka complained of last; the relay says it once. It stands apart, since a producer
    that held on to its publisher would live, with its threads, until the collector comes by."""

    def __init__(self) -> None:
        self.text: str | None = None

    def note(self, error: Any) -> None:
        self.text = error.str()


class Log:
    """librdkafka's log, as long as it is of interest: a producer that guarantees to leave no gap
    calls it a fatal error that its queue was purged, which is how each of them ends."""

    def __init__(self) -> None:
        self.closed = False

    def log(self, level: int, message: str, *arguments: object) -> None:
        if not self.closed:
            _librdkafka_logger.log(level, message, *arguments)


def make_producer(
    properties: Mapping[str, object], on_error: Callable[[Any], None]
) -> tuple[Any, Log]:
    """Make a producer of the raw class, and its log.

    OpenTelemetry's Kafka instrumentation replaces `confluent_kafka.Producer` by a subclass that
    would add a second `traceparent` to every message.
    """
    try:
        import confluent_kafka
    except ImportError as error:
        raise MissingExtra(
            'publishing to Kafka needs confluent-kafka; run `pip install "outbox-relay[kafka]"`'
        ) from error
    log = Log()
    raw = next(c for c in confluent_kafka.Producer.__mro__ if c.__module__ == "cimpl")
    try:
        return raw({**properties, "error_cb": on_error}, logger=log), log
    except (confluent_kafka.KafkaException, ValueError, TypeError) as error:
        raise ConfigurationError(f"Kafka properties: {sentence_of(error)}") from error


def queue_room(properties: Mapping[str, object]) -> int:
    """Return how many messages a producer's queue surely has room for; 0 where its bytes are
    limited to less than usual, which is far more than a relay has in flight."""
    if int(str(properties.get("queue.buffering.max.kbytes", _QUEUE_KBYTES))) < _QUEUE_KBYTES:
        return 0
    limit = int(str(properties.get("queue.buffering.max.messages", _QUEUE_MESSAGES)))
    return limit or _QUEUE_MESSAGES  # 0 is no limit


def kafka_exceptions() -> tuple[type[Exception], ...]:
    """Return what a call of the producer may raise. A SystemError comes out of poll when a callback
    was called while the producer was already broken."""
    from confluent_kafka import KafkaException

    return (KafkaException, SystemError)


def error_name(error: Exception) -> str:
    """Return librdkafka's name of an error."""
    inner = error.args[0] if error.args else error
    return str(inner.name()) if hasattr(inner, "name") else ""


def sentence_of(error: BaseException) -> str:
    inner = error.args[0] if error.args else error
    return str(inner.str()) if hasattr(inner, "str") else str(inner)


def reach(client: Any, complaint: Complaint, timeout_s: float) -> Any:
    """Return the metadata of the cluster. Raises BrokerUnavailable, with the latest complaint."""
    kafka_error = kafka_exceptions()
    try:
        metadata = client.list_topics(timeout=timeout_s)
    except kafka_error as error:
        with suppress(*kafka_error):
            client.poll(0)  # what librdkafka has to say of the addresses
        reason = complaint.text or sentence_of(error)
        raise BrokerUnavailable(f"Kafka cannot be reached: {reason}") from error
    complaint.text = None
    return metadata


def abandon(producer: Any, log: Log) -> None:
    """Give up whatever was not sent. `Producer.close()` would wait for the broker for ever."""
    errors = kafka_exceptions()
    log.closed = True
    with suppress(*errors):
        producer.purge(in_queue=True, in_flight=True, blocking=False)
    with suppress(*errors):
        producer.flush(1.0)
