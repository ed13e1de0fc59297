"""A message as it comes from Kafka."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from outbox.errors import InvalidMessage, MissingMessageId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_STRUCTURED: Final = "application/cloudevents+json"

#: The longest message id, in bytes of UTF-8: an entry of a PostgreSQL index ends at 2,704.
MAX_ID_BYTES: Final = 1024


class KafkaMessage(Protocol):
    """What `from_kafka` needs of a `confluent_kafka.Message`."""

    def error(self) -> object | None: ...
    def topic(self) -> str | None: ...
    def partition(self) -> int | None: ...
    def offset(self) -> int | None: ...
    def key(self) -> bytes | str | None: ...
    def value(self) -> bytes | str | None: ...
    def headers(self) -> Iterable[tuple[str, bytes | str | None]] | None: ...


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """A Kafka message with the id that makes it take effect once.

    `headers` keeps order and repetitions. `type`, `position`, `traceparent` and `tracestate` are
    the text of the headers of these names (`position`: `outbox-position`; `type` may be a
    CloudEvent's `ce_type`); where a header is repeated the first one counts. The repr leaves out
    what may be private: key, payload, headers.
    """

    id: str
    topic: str
    partition: int
    offset: int
    key: bytes | None = field(default=None, repr=False)
    payload: bytes | None = field(default=None, repr=False)
    headers: tuple[tuple[str, bytes | None], ...] = field(default=(), repr=False)
    type: str | None = None
    position: str | None = field(default=None, repr=False)

    @property
    def traceparent(self) -> str | None:
        """The W3C trace context of whoever sent the message."""
        return _text(self.headers, "traceparent")

    @property
    def tracestate(self) -> str | None:
        """The vendors' part of the trace context."""
        return _text(self.headers, "tracestate")


def from_kafka(
    kafka_message: KafkaMessage, *, id_from: Callable[[KafkaMessage], str] | None = None
) -> ReceivedMessage:
    """Read a `confluent_kafka.Message`.

    The id is the first `id` header. Other clients must take the first one too, which in Java is
    `headers().headers("id").iterator().next()` and not `lastHeader("id")`. Where there is none, or
    it is empty, too long or not UTF-8 text, `id_from(kafka_message)` gives the id: for messages
    of producers that do not send one. It must give the same id whenever it sees the same message.

    Raises MissingMessageId when neither gives an id, and InvalidMessage for an error event, which
    `poll` returns in place of a message.
    """
    if error := kafka_message.error():
        raise InvalidMessage(
            f"this is no message but an event of the Kafka client: {error}; "
            "look at message.error() before calling from_kafka"
        )
    headers = _headers(kafka_message)
    topic, partition, offset = _place(kafka_message)
    return ReceivedMessage(
        id=_id(kafka_message, headers, id_from),
        topic=topic,
        partition=partition,
        offset=offset,
        key=_bytes(kafka_message.key()),
        payload=_bytes(kafka_message.value()),
        headers=headers,
        type=_text(headers, "type") or _text(headers, "ce_type"),
        position=_text(headers, "outbox-position"),
    )


def cloudevents_id(kafka_message: KafkaMessage) -> str:
    """Return the id of a CloudEvent, for `id_from`: source and id, which are unique together.

    Reads both of the forms that events have on Kafka, and returns "" for what is no CloudEvent.
    """
    headers = _headers(kafka_message)
    source, event_id = _text(headers, "ce_source"), _text(headers, "ce_id")
    if source is None and (_text(headers, "content-type") or "").startswith(_STRUCTURED):
        source, event_id = _structured(_bytes(kafka_message.value()) or b"")
    return f"{source} {event_id}" if source and event_id else ""


def _structured(envelope: bytes) -> tuple[str, str]:
    try:
        event = json.loads(envelope)
        return str(event["source"]), str(event["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "", ""


def id_problem(message_id: object) -> str | None:
    """Say why this cannot be the id of a message, or return None."""
    if not isinstance(message_id, str):
        return f"is not text but {type(message_id).__name__}"
    if not message_id:
        return "is empty"
    if "\0" in message_id:
        return "contains U+0000, which a database cannot store"
    try:
        size = len(message_id.encode())
    except UnicodeEncodeError:
        return "contains a lone surrogate, which is no character"
    return None if size <= MAX_ID_BYTES else f"has {size} bytes, {MAX_ID_BYTES} are the limit"


def _id(
    kafka_message: KafkaMessage,
    headers: tuple[tuple[str, bytes | None], ...],
    id_from: Callable[[KafkaMessage], str] | None,
) -> str:
    message_id, problem = _id_in(headers)
    if problem is None:
        return message_id
    if id_from is not None:
        message_id = id_from(kafka_message)
        problem = id_problem(message_id)
        if problem is None:
            return message_id
        problem = f"the id that id_from returned {problem}"
    raise MissingMessageId(_without_id(kafka_message, problem, given=id_from is not None))


def _id_in(headers: tuple[tuple[str, bytes | None], ...]) -> tuple[str, str | None]:
    value = next((value for name, value in headers if name == "id"), None)
    if value is None:
        return "", "it has no `id` header"
    try:
        message_id = value.decode()
    except UnicodeDecodeError:
        return "", "its `id` header is not UTF-8 text"
    problem = id_problem(message_id)
    return message_id, problem and f"its `id` header {problem}"


def _without_id(kafka_message: KafkaMessage, problem: str, *, given: bool) -> str:
    topic, partition, offset = _place(kafka_message)
    advice = (
        "let id_from return the same non-empty text whenever it sees the same message"
        if given
        else "pass id_from=, a function from the Kafka message to its id, for instance "
        'lambda m: f"{m.topic()}/{m.partition()}/{m.offset()}"'
    )
    return (
        f"the message at topic {topic!r}, partition {partition}, offset {offset} has no usable id "
        f"({problem}); {advice}"
    )


def _place(kafka_message: KafkaMessage) -> tuple[str, int, int]:
    topic, partition, offset = (
        kafka_message.topic(),
        kafka_message.partition(),
        kafka_message.offset(),
    )
    if topic is None or partition is None or offset is None:
        raise InvalidMessage(
            "the Kafka message has no topic, partition or offset: was it received?"
        )
    return topic, partition, offset


def _headers(kafka_message: KafkaMessage) -> tuple[tuple[str, bytes | None], ...]:
    return tuple((name, _bytes(value)) for name, value in kafka_message.headers() or ())


def _text(headers: tuple[tuple[str, bytes | None], ...], wanted: str) -> str | None:
    for name, value in headers:
        if name == wanted:
            # A foreign producer's bytes must not stop the partition: what is not UTF-8 reads as
            # U+FFFD.
            return None if value is None else value.decode(errors="replace")
    return None


def _bytes(value: bytes | str | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value
