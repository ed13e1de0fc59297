"""librdkafka's own mock cluster: a Kafka in memory, for demos and tests.

Brokers within this process, on loopback ports that other clients and processes can join. It keeps
the last 5 MiB or 100,000 messages of a partition and silently forgets older ones, checks no
sequence numbers without transactions, and lives as long as whoever made it. So it shows what a
client does with an error, and never what a broker would keep.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from outbox.errors import BrokerUnavailable, ConfigurationError, MissingExtra, OutboxError
from outbox.publishers.memory import PublishedMessage

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

#: An error that passes: the broker has lost the partition, and may have it again soon.
OUTAGE = "NOT_LEADER_FOR_PARTITION"

PRODUCE = 0  # the number of the request in Kafka's protocol

_PRODUCER = 0  # RD_KAFKA_PRODUCER
_OK = 0


class MockKafka:
    """Some brokers. Use it as a context manager, or call `close` at last.

    Raises MissingExtra without confluent-kafka, OutboxError where its build hides the functions.
    """

    def __init__(self, brokers: int = 1) -> None:
        self._library = _library()
        reason = ctypes.create_string_buffer(512)
        configuration = self._library.rd_kafka_conf_new()
        # It complains that it has no brokers to connect to; it is the brokers.
        self._library.rd_kafka_conf_set(configuration, b"log_level", b"0", reason, len(reason))
        self._client = self._library.rd_kafka_new(_PRODUCER, configuration, reason, len(reason))
        if not self._client:
            raise OutboxError(f"librdkafka made no client: {reason.value.decode()}")
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        if not self._cluster:
            self._library.rd_kafka_destroy(self._client)
            raise OutboxError(f"librdkafka made no mock cluster of {brokers} brokers")
        self._brokers = brokers
        # Nobody else will join a consumer group a moment later, and three seconds are long.
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        address = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self._bootstrap_servers: str = address.decode()

    @property
    def bootstrap_servers(self) -> str:
        """What a client takes as `bootstrap.servers`."""
        return self._bootstrap_servers

    def make_topic(self, name: str, partitions: int = 1) -> str:
        """Create a topic; the mock cluster does not understand the request for it."""
        error = self._library.rd_kafka_mock_topic_create(
            self._cluster, name.encode(), partitions, self._brokers
        )
        if error != _OK:
            raise ConfigurationError(
                f"the mock cluster made no topic {name!r} with {partitions} partitions: "
                f"{error_name(error)}"
            )
        return name

    def refuse(self, *errors: int, request: int = PRODUCE) -> None:
        """Answer the next requests of a kind with these errors, in turn, doing nothing else."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, request, len(errors), array
        )

    def take_down(self) -> None:
        """Close all connections and accept none."""
        for number in range(1, self._brokers + 1):
            self._library.rd_kafka_mock_broker_set_down(self._cluster, number)

    def bring_up(self) -> None:
        """Accept connections again; the messages are still there."""
        for number in range(1, self._brokers + 1):
            self._library.rd_kafka_mock_broker_set_up(self._cluster, number)

    def delay(self, seconds: float) -> None:
        """Let every answer take this long from now on; 0 for none."""
        for number in range(1, self._brokers + 1):
            milliseconds = round(seconds * 1000)
            self._library.rd_kafka_mock_broker_set_rtt(self._cluster, number, milliseconds)

    def close(self) -> None:
        """End the brokers; what they kept is gone."""
        if self._cluster:
            self._library.rd_kafka_mock_cluster_destroy(self._cluster)
            self._library.rd_kafka_destroy(self._client)
        self._cluster = self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def produce(
    bootstrap_servers: str, messages: Sequence[PublishedMessage], *, timeout_s: float = 30.0
) -> None:
    """Send messages in their order, to the partitions that a relay would choose.

    Raises BrokerUnavailable when they have not arrived within `timeout_s` seconds.
    """
    from confluent_kafka import Producer

    errors: list[str] = []
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "log_level": 0,
        }
    )
    for message in messages:
        producer.produce(
            message.topic,
            message.payload,
            message.key,
            headers=list(message.headers),
            on_delivery=lambda error, _: errors.append(str(error)) if error else None,
        )
        producer.poll(0)
    left = producer.flush(timeout_s)
    if left or errors:
        reason = errors[0] if errors else f"no answer within {timeout_s:g} s"
        raise BrokerUnavailable(f"{left + len(errors)} messages did not arrive: {reason}")


def error_code(error: str | int) -> int:
    """Return the number of an error of Kafka's, given by name or number."""
    if isinstance(error, int):
        return error
    from confluent_kafka import KafkaError

    code = getattr(KafkaError, error, None)
    if not isinstance(code, int):
        raise ConfigurationError(
            f"{error!r} is not the name of an error of Kafka's: use those of KafkaError, "
            f'such as "{OUTAGE}"'
        )
    return code


def error_name(error: str | int) -> str:
    """Return the name of an error of Kafka's, given by name or number."""
    try:
        from confluent_kafka import KafkaError
    except ImportError:
        return str(error)  # without the client nobody can check it
    name: str = KafkaError(error_code(error)).name()
    return name


@lru_cache
def _library() -> Any:
    """Return librdkafka, which no module of Python gives: the extension module links to it."""
    try:
        from confluent_kafka import cimpl
    except ImportError as error:
        raise MissingExtra(
            'a mock Kafka needs confluent-kafka; run `pip install "outbox-relay[kafka]"`'
        ) from error
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    for name, result, arguments in (
        ("conf_new", pointer, []),
        ("conf_set", ctypes.c_int, [pointer, text, text, text, ctypes.c_size_t]),
        ("new", pointer, [ctypes.c_int, pointer, text, ctypes.c_size_t]),
        ("destroy", None, [pointer]),
        ("mock_cluster_new", pointer, [pointer, ctypes.c_int]),
        ("mock_cluster_destroy", None, [pointer]),
        ("mock_cluster_bootstraps", text, [pointer]),
        ("mock_topic_create", ctypes.c_int, [pointer, text, ctypes.c_int, ctypes.c_int]),
        (
            "mock_push_request_errors_array",
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
        ),
        ("mock_group_initial_rebalance_delay_ms", None, [pointer, number]),
        ("mock_broker_set_down", ctypes.c_int, [pointer, number]),
        ("mock_broker_set_up", ctypes.c_int, [pointer, number]),
        ("mock_broker_set_rtt", ctypes.c_int, [pointer, number, ctypes.c_int]),
    ):
        function = _function(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library


def _function(library: Any, name: str) -> Any:
    try:
        return getattr(library, name)
    except AttributeError as error:
        raise OutboxError(
            f"this build of confluent-kafka does not let {name} be called, so there is no mock "
            "Kafka here; use a real one"
        ) from error
