"""A publisher that keeps messages in a list: for tests, and to see what would be sent."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from outbox.headers import wire_headers
from outbox.publishers.base import Delivery, DeliveryFailed
from outbox.publishers.refusing import each_or_refused
from outbox.record import Record

_CHECK_EVERY = 256


@dataclass(frozen=True, slots=True)
class PublishedMessage:
    """A message as it would be on the wire."""

    topic: str
    key: str | None
    payload: bytes | None
    headers: tuple[tuple[str, str | bytes | None], ...]

    @property
    def id(self) -> str:
        """The message's id."""
        return self.header("id") or ""

    @property
    def data(self) -> Any:
        """The payload decoded from JSON; what is no JSON as bytes, a tombstone as None."""
        return decoded(self.payload)

    def header(self, name: str) -> str | None:
        """Return the text of the first header of this name, None where there is none."""
        value = next((value for found, value in self.headers if found == name), None)
        return value.decode() if isinstance(value, bytes) else value


class MemoryPublisher:
    """Implements Publisher. `published` may be shared by the publishers of several terms.

    `fail_at`: number of the message, counted from 0 in each publisher, whose delivery fails.
    """

    def __init__(
        self,
        published: list[PublishedMessage] | None = None,
        *,
        cluster_id: str = "memory",
        fail_at: int | None = None,
    ) -> None:
        self.published = [] if published is None else published
        self._cluster_id = cluster_id
        self._fail_at = fail_at
        self._failed = False
        self._sent = 0
        self._waiting: deque[tuple[PublishedMessage, Delivery, int]] = deque()

    @property
    def trouble(self) -> str | None:
        """Return None: memory always answers."""
        return None

    @property
    def transactional(self) -> bool:
        """Return False."""
        return False

    def claim(self, identity: str, timeout_s: float) -> list[str]:  # noqa: ARG002 - the seam's signature
        """Return nothing: memory keeps no marks, and nobody else has it."""
        return []

    def connect(self, timeout_s: float) -> str:  # noqa: ARG002 - the seam's signature
        """Return the cluster's id."""
        return self._cluster_id

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Delivery,
        check: Callable[[], None],
    ) -> None:
        """Keep the messages until the next poll."""
        messages = each_or_refused(
            records, lambda record: as_published(Record(*record), position_prefix)
        )
        for index, message in enumerate(messages):
            if not index % _CHECK_EVERY:
                check()
            self._waiting.append((message, delivery, index))

    def poll(self, timeout_s: float) -> None:  # noqa: ARG002 - the seam's signature
        """Take all messages that wait, and acknowledge them."""
        while self._waiting and not self._failed:
            message, delivery, index = self._waiting.popleft()
            if self._sent == self._fail_at:
                self._failed = True
                break
            self._sent += 1
            self.published.append(message)
            delivery.acknowledged(index)
        if self._failed:
            raise DeliveryFailed("failed on demand")

    def flush(self, timeout_s: float) -> None:
        """Take everything."""
        self.poll(timeout_s)

    def close(self) -> None:
        """Forget what was not taken."""
        self._waiting.clear()


def decoded(payload: bytes | None) -> Any:
    """Return what the JSON says, or the payload itself where it is none."""
    if payload is None:
        return None
    try:
        return json.loads(payload)
    except ValueError:
        return payload


def as_published(record: Record, position_prefix: str) -> PublishedMessage:
    """Return a record as it would be on the wire."""
    headers = wire_headers(
        record.id,
        record.type,
        record.content_type,
        record.traceparent,
        record.tracestate,
        f"{position_prefix}{record.seq}" if position_prefix else None,
        record.headers,
    )
    return PublishedMessage(record.topic, record.key, record.payload, tuple(headers))
