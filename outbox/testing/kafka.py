"""A Kafka for tests, in this process: librdkafka's mock cluster, with calls to write and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from outbox.errors import OutboxError
from outbox.inbox.reading import read_topic
from outbox.message import Message
from outbox.publishers.memory import PublishedMessage
from outbox.publishers.mock_kafka import OUTAGE, MockKafka, error_code, produce
from outbox.testing.received import as_sent

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from outbox.inbox.received import KafkaMessage, ReceivedMessage


class KafkaMock:
    """A mock Kafka, at `bootstrap_servers` for any client on this machine.

    It lives in memory and ends with `close`, or as a context manager. A partition keeps its last
    5 MiB or 100,000 messages. It knows no settings of topics, no rights, and no sequence numbers
    of producers: test against a real Kafka what a broker keeps, and against this what your code
    does. Topics that are written to or asked for come into being, with four partitions.
    """

    def __init__(self, brokers: int = 1) -> None:
        self._cluster = MockKafka(brokers)

    @property
    def bootstrap_servers(self) -> str:
        """What a client takes as `bootstrap.servers`."""
        return self._cluster.bootstrap_servers

    def create_topic(self, name: str, partitions: int = 1) -> str:
        """Create a topic and return its name; Kafka's own request for that is not understood."""
        return self._cluster.make_topic(name, partitions)

    def send(self, *messages: Message | PublishedMessage, times: int = 1) -> None:
        """Send messages in their order, as a relay would, and wait until they have arrived.

        They are what `drain` returned, or `Message(topic, payload, …)` made by hand. With `times`
        each of them comes so often in a row, the same id every time.
        """
        sent = [as_sent(message) for message in messages for _ in range(times)]
        produce(self.bootstrap_servers, sent)

    def read(self, topic: str, *, timeout_s: float = 30.0) -> list[ReceivedMessage]:
        """Return all messages of a topic, each partition in its order, without joining a group.

        A message without an id gets its place as one. Raises OutboxError where the mock cluster has
        forgotten messages of the topic, and BrokerUnavailable after `timeout_s` seconds.
        """
        found = read_topic(self.bootstrap_servers, topic, timeout_s=timeout_s, id_from=_place)
        firsts = {message.partition: message.offset for message in reversed(found)}
        if any(firsts.values()):
            raise OutboxError(
                f"topic {topic!r} is not whole any more: the mock cluster keeps the last 5 MiB or "
                "100,000 messages of a partition. Send less, or use a real Kafka"
            )
        return found

    def fail_sends(self, count: int = 1, *, error: str | int = OUTAGE) -> None:
        """Answer the next `count` requests to produce with an error of Kafka's, by name or code.

        One request may carry many messages; nothing of it is kept.
        """
        self._cluster.refuse(*[error_code(error)] * count)

    def delay(self, seconds: float) -> None:
        """Let every answer take this long from now on; 0 for none."""
        self._cluster.delay(seconds)

    def take_down(self) -> None:
        """Close all connections and accept none, until `bring_up`. The messages are kept."""
        self._cluster.take_down()

    def bring_up(self) -> None:
        """Accept connections again."""
        self._cluster.bring_up()

    def close(self) -> None:
        """End it; what it kept is gone."""
        self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _place(message: KafkaMessage) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"
