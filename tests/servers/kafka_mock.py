"""librdkafka's own mock cluster: a Kafka in memory that refuses requests on demand.

It checks no sequence numbers without transactions and forgets all but the last 5 MiB of a
partition. So it shows what a producer does with an error, and never what a broker would keep.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from confluent_kafka import cimpl

from tests.servers.kafka_topics import KafkaServer

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

PRODUCE = 0  # the number of the request in Kafka's protocol
PRODUCER = 0  # RD_KAFKA_PRODUCER
OK = 0


class MockCluster(KafkaServer):
    """Brokers within this process. Use it as a context manager, or call `close` at last."""

    def __init__(self, brokers: int = 1) -> None:
        self._library = _library()
        reason = ctypes.create_string_buffer(512)
        configuration = self._library.rd_kafka_conf_new()
        self._client = self._library.rd_kafka_new(PRODUCER, configuration, reason, len(reason))
        assert self._client, reason.value.decode()
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        assert self._cluster, "librdkafka made no mock cluster"
        super().__init__(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())
        self._brokers = brokers

    def make_topic(self, name: str, partitions: int = 1) -> str:
        """Create a topic; the mock cluster does not understand the request for it."""
        made = self._library.rd_kafka_mock_topic_create(
            self._cluster, name.encode(), partitions, self._brokers
        )
        assert made == OK, f"mock topic {name}: error {made}"
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
            assert self._library.rd_kafka_mock_broker_set_down(self._cluster, number) == OK

    def bring_up(self) -> None:
        """Accept connections again; the messages are still there."""
        for number in range(1, self._brokers + 1):
            assert self._library.rd_kafka_mock_broker_set_up(self._cluster, number) == OK

    def close(self) -> None:
        """End the brokers."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _library() -> Any:
    """Return librdkafka, which no module of Python gives: the extension module links to it."""
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32
    for name, result, arguments in (
        ("conf_new", pointer, []),
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
        ("mock_broker_set_down", ctypes.c_int, [pointer, number]),
        ("mock_broker_set_up", ctypes.c_int, [pointer, number]),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, arguments
    return library
