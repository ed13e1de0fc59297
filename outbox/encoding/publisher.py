"""A publisher in front of another one, which gets messages as they go on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from outbox.encoding.misfit import Misfit
from outbox.encoding.registry import RegistryUnavailable
from outbox.errors import MessageRefused
from outbox.publishers.base import Delivery, Publisher
from outbox.publishers.refusing import each_or_refused
from outbox.record import Record

if TYPE_CHECKING:
    from outbox.encoding.encodings import Encodings

_CHECK_EVERY = 256


class EncodingPublisher:
    """Encodes what the relay sends; implements Publisher.

    What is known of schemas lives in `encodings`, which outlives the publishers of many terms.
    """

    def __init__(self, inner: Publisher, encodings: Encodings) -> None:
        self._inner = inner
        self._encodings = encodings

    @property
    def transactional(self) -> bool:
        """Return whether the other one publishes in transactions."""
        return self._inner.transactional

    def claim(self, identity: str, timeout_s: float) -> list[str]:
        """Shut out those before us."""
        return self._inner.claim(identity, timeout_s)

    def connect(self, timeout_s: float) -> str:
        """Reach the broker. The registry is asked when its first schema is needed."""
        return self._inner.connect(timeout_s)

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Delivery,
        check: Callable[[], None],
    ) -> None:
        """Encode a page, and hand it on when all of it could be encoded."""
        encoding = _Encoding(self._encodings, check)
        encoded = each_or_refused(records, encoding.encode)
        if encoding.failure is not None:
            raise encoding.failure
        self._inner.publish(encoded, position_prefix, delivery, check)

    def poll(self, timeout_s: float) -> None:
        """Report what became of messages."""
        self._inner.poll(timeout_s)

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent was reported."""
        self._inner.flush(timeout_s)

    @property
    def trouble(self) -> str | None:
        """Return what keeps the broker from answering, or None."""
        return self._inner.trouble

    def close(self) -> None:
        """Give up whatever was not sent."""
        self._inner.close()


class _Encoding:
    """The encoding of one page. `failure`: the topics whose schemas cannot be had now."""

    def __init__(self, encodings: Encodings, check: Callable[[], None]) -> None:
        self._encodings = encodings
        self._check = check
        self._count = 0
        self.failure: RegistryUnavailable | None = None
        self._topics: dict[str, str] = {}

    def encode(self, record: Record) -> Record:
        """Return the record as it goes on the wire. Raises MessageRefused."""
        if not self._count % _CHECK_EVERY:
            self._check()
        self._count += 1
        record = Record(*record)
        if record.topic in self._topics:  # the registry may take its time to say nothing
            return record
        try:
            return self._encodings.apply(record)
        except Misfit as error:
            raise MessageRefused(
                f"message {record.id} for topic {record.topic!r} cannot be encoded"
                f"{self._encodings.in_words(record)}: {error}"
            ) from error
        except RegistryUnavailable as error:
            self._topics[record.topic] = f"topic {record.topic!r}: {error}"
            error.topics = self._topics
            self.failure = self.failure or error
            return record
