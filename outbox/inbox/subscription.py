"""The consumer's side of Kafka: what comes in, and the offsets that go back."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast

from outbox.errors import BrokerUnavailable, ConfigurationError, MissingExtra
from outbox.inbox.repeats import SparingLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

    from outbox.inbox.pending import Partition
    from outbox.inbox.received import KafkaMessage

_log = logging.getLogger(__name__)

#: Seconds between two commits of offsets under load. A crash repeats no effect, only this work.
COMMIT_INTERVAL: Final = 1.0

#: Seconds that `close` waits for a broker that is away.
PARTING: Final = 5.0


class Subscription:
    """Topics subscribed to as one member of a consumer group.

    `on_gone` is called from within `poll` and `close` with partitions that now belong to someone
    else. Offsets are committed up to what `processed` was told, a second later at most, and at
    once when nothing comes in.
    """

    def __init__(
        self,
        settings: dict[str, object],
        topics: list[str],
        on_gone: Callable[[set[Partition]], None],
    ) -> None:
        self.joined = False
        self._topics = topics
        self._on_gone = on_gone
        self._kafka = _confluent_kafka()
        self._consumer = self._client(settings)
        self._subscribed = False
        self._closed = False
        self._paused: set[Partition] = set()
        self._next: dict[Partition, int] = {}
        self._uncommitted: set[Partition] = set()
        self._commit_at = 0.0
        self._commits_under_way = 0
        self._commit_failed = False

    def poll(self, timeout: float) -> tuple[Partition, KafkaMessage] | None:
        """Return the next message, or None after `timeout` seconds or an event."""
        if not self._subscribed:
            self._subscribe()
        message = self._consumer.poll(timeout)
        if message is not None and (error := message.error()) is not None:
            self._note(error)
            message = None
        if message is None:
            self._commit_when_idle()
            return None
        return (message.topic(), message.partition()), message

    def processed(self, partition: Partition, offset: int) -> None:
        """Note that the database has committed what the message at this offset caused."""
        self._next[partition] = offset + 1
        self._uncommitted.add(partition)
        if not self._commits_under_way and time.monotonic() >= self._commit_at:
            self._commit()

    def hold(self, partitions: set[Partition]) -> None:
        """Pause exactly these partitions."""
        if partitions == self._paused:
            return
        self._consumer.pause(self._positions(partitions - self._paused))
        self._consumer.resume(self._positions(self._paused - partitions))
        self._paused = set(partitions)

    def close(self) -> None:
        """Commit what was processed and leave the group. Legal more than once."""
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + PARTING
        self._commit_and_wait(deadline)
        self._next.clear()  # closing revokes the partitions, which would commit once more
        # In a thread: with a commit under way and no broker it takes as long as a session lasts.
        leaving = threading.Thread(target=self._consumer.close, name="outbox-leave", daemon=True)
        leaving.start()
        leaving.join(max(1.0, deadline - time.monotonic()))
        if leaving.is_alive():
            _log.warning(
                "this consumer ends before the broker has let it leave its group; others get its"
                " partitions after session.timeout.ms"
            )

    def _client(self, settings: dict[str, object]) -> Any:  # an untyped C extension
        # Not confluent_kafka.Consumer: OpenTelemetry's instrumentor may have replaced it by one
        # that opens a span of its own around every message.
        raw = next(
            each for each in self._kafka.Consumer.__mro__ if each.__module__.endswith("cimpl")
        )
        try:
            return raw({"logger": SparingLog(_log), **settings, "on_commit": self._committed})
        except (self._kafka.KafkaException, TypeError, ValueError) as error:
            raise ConfigurationError(f"kafka has settings that cannot be used: {error}") from error

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            self._topics,
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )
        self._subscribed = True

    def _assigned(self, _consumer: object, _positions: object) -> None:
        self.joined = True

    def _revoked(self, _consumer: object, positions: Iterable[Any]) -> None:
        gone = {(each.topic, each.partition) for each in positions}
        self._commit_now(gone)
        self._forget(gone)

    def _lost(self, _consumer: object, positions: Iterable[Any]) -> None:
        # Someone else may have gone further already: a commit would set the offset back.
        self._forget({(each.topic, each.partition) for each in positions})

    def _forget(self, gone: set[Partition]) -> None:
        # Kafka's client keeps a pause for when the partition comes back.
        self._consumer.resume(self._positions(gone & self._paused))
        self._paused -= gone
        self._uncommitted -= gone
        for partition in gone:
            self._next.pop(partition, None)
        self._on_gone(gone)

    def _commit_when_idle(self) -> None:
        soon = not self._commit_failed or time.monotonic() >= self._commit_at
        if soon and self._uncommitted and not self._commits_under_way:
            self._commit()

    def _commit(self) -> None:
        offsets = self._positions(self._uncommitted)
        self._uncommitted = set()
        self._commit_at = time.monotonic() + COMMIT_INTERVAL
        self._consumer.commit(offsets=offsets, asynchronous=True)
        self._commits_under_way += 1

    def _commit_and_wait(self, deadline: float) -> None:
        # Not synchronous: that would wait for a broker that is away without end in sight.
        if self._uncommitted:
            self._commit()
        while self._commits_under_way and time.monotonic() < deadline:
            # What comes in now is not taken: the next consumer of the partition gets it.
            self._consumer.poll(0.05)

    def _commit_now(self, partitions: set[Partition]) -> None:
        # All of them, also those whose commit is under way and may still fail.
        offsets = self._positions(partitions & self._next.keys())
        if not offsets:
            return
        try:
            results = self._consumer.commit(offsets=offsets, asynchronous=False)
        except self._kafka.KafkaException as error:
            _not_committed(error)
            return
        for result in results:
            if result.error is not None:
                _not_committed(result.error)

    def _committed(self, error: object | None, positions: Iterable[Any]) -> None:
        failed = {(each.topic, each.partition) for each in positions if error or each.error}
        self._commits_under_way = max(0, self._commits_under_way - 1)
        self._commit_failed = bool(failed)
        if failed:
            _not_committed(error)
            self._uncommitted |= failed & self._next.keys()

    def _positions(self, partitions: set[Partition]) -> list[Any]:
        make = self._kafka.TopicPartition
        return [make(*partition, self._next.get(partition, -1001)) for partition in partitions]

    def _note(self, error: Any) -> None:
        code, codes = error.code(), self._kafka.KafkaError
        if code == codes._PARTITION_EOF:  # noqa: SLF001 - the public name of the code begins so
            return
        # Neither heals by waiting: the second is what `auto.offset.reset=error` asks for.
        if error.fatal() or code == codes._AUTO_OFFSET_RESET:  # noqa: SLF001 - as above
            raise BrokerUnavailable(f"Kafka does not go on delivering: {error.str()}")
        _log.warning("Kafka: %s", error.str())


def _not_committed(error: object) -> None:
    _log.warning(
        "the offsets of processed messages were not committed (%s); "
        "messages that come again for that will be recognised",
        error,
    )


def _confluent_kafka() -> ModuleType:
    try:
        import confluent_kafka
    except ImportError as error:
        raise MissingExtra(
            'an InboxConsumer needs confluent-kafka: pip install "outbox-relay[kafka]"'
        ) from error
    return cast("ModuleType", confluent_kafka)
