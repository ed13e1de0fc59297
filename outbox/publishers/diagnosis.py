"""What `doctor` asks of Kafka; it writes nothing, and creates no topic by asking for one.

Facts only; what they mean is decided in `outbox.doctor`.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from outbox.errors import BrokerUnavailable, MissingExtra
from outbox.publishers.kafka import DEFAULTS, KafkaPublisher
from outbox.publishers.topics import connection_properties

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

_ASK_TIMEOUT_S = 5.0
_SOCKET_TIMEOUT_S = 2.0

#: Once librdkafka has complained, it may still succeed with another address for this long.
_GRACE_S = 1.0


class BrokerSilent(BrokerUnavailable):
    """No broker answered. `complaints`: librdkafka's names and words, the first of each kind."""

    def __init__(self, complaints: Mapping[str, str], addresses: list[tuple[str, int]]) -> None:
        super().__init__("; ".join(complaints.values()) or "no answer")
        self.complaints = complaints
        self.addresses = addresses


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that answered: its id, and where it tells clients its brokers are."""

    id: str
    brokers: tuple[tuple[str, int], ...]
    round_trip_s: float


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the broker describes it.

    `error` is why it cannot be described (librdkafka's name and words). `settings` is None where
    they may not be read, `may_write` where the broker does not say.
    """

    topic: str
    error: tuple[str, str] | None = None
    replicas: int = 0
    in_sync: int = 0
    leaderless: int = 0
    may_write: bool | None = None
    settings: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ClientVersions:
    """The Kafka client that is installed."""

    package: str
    library: str


class BrokerDiagnosis:
    """Asks one cluster; `properties` are those of the relay's producer."""

    def __init__(self, properties: Mapping[str, object], timeout_s: float) -> None:
        self._properties = {**DEFAULTS, **properties}
        self._timeout_s = timeout_s
        self._complaints: dict[str, str] = {}
        self._opened: AdminClient | None = None

    def try_properties(self) -> None:
        """Raise ConfigurationError for properties that the relay's producer would not take."""
        KafkaPublisher(self._properties).close()

    def reach(self) -> Cluster:
        """Ask for the cluster, or raise BrokerSilent."""
        from confluent_kafka import KafkaException

        admin = self._admin()
        began = time.monotonic()
        while True:
            asked = time.monotonic()
            try:
                found = admin.list_topics(timeout=0.5)
            except KafkaException as error:
                with suppress(KafkaException, SystemError):
                    admin.poll(0)  # hands out what librdkafka complains of
                if self._is_over(began):
                    raise BrokerSilent(self._complaints, self.bootstrap()) from error
                continue
            brokers = tuple((each.host, each.port) for each in found.brokers.values())
            return Cluster(str(found.cluster_id or ""), brokers, time.monotonic() - asked)

    def _is_over(self, began: float) -> bool:
        limit = min(self._timeout_s, _GRACE_S) if self._complaints else self._timeout_s
        return time.monotonic() - began >= limit

    def _admin(self) -> AdminClient:
        if self._opened is None:
            try:
                from confluent_kafka.admin import AdminClient
            except ImportError as error:
                raise MissingExtra(
                    'Kafka needs confluent-kafka; run `pip install "outbox-relay[kafka]"`'
                ) from error
            self._opened = AdminClient(
                {
                    **connection_properties(self._properties),
                    "log_level": 0,
                    "allow.auto.create.topics": False,
                    "error_cb": self._note,
                }
            )
        return self._opened

    def _note(self, error: Any) -> None:
        self._complaints.setdefault(error.name(), error.str())

    def bootstrap(self) -> list[tuple[str, int]]:
        """Return the addresses that the user gave."""
        given = self._properties.get("bootstrap.servers") or self._properties.get(
            "metadata.broker.list", ""
        )
        return [_address(entry) for entry in str(given).split(",") if entry.strip()]

    def topics(self, names: Iterable[str]) -> list[TopicState]:
        """Describe topics, those that do not exist included."""
        from confluent_kafka import TopicCollection

        wanted = sorted(names)
        if not wanted:
            return []
        described = self._admin().describe_topics(
            TopicCollection(wanted),
            include_authorized_operations=True,
            request_timeout=_ASK_TIMEOUT_S,
        )
        settings = self._settings(wanted)
        return [_state(name, described[name], settings.get(name)) for name in wanted]

    def _settings(self, topics: list[str]) -> dict[str, Mapping[str, str]]:
        """Return the settings of topics, but for those that we may not read."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import ConfigResource

        resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        futures = self._admin().describe_configs(resources, request_timeout=_ASK_TIMEOUT_S)
        found: dict[str, Mapping[str, str]] = {}
        for resource, future in futures.items():
            with suppress(KafkaException):
                entries = future.result()
                found[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
        return found

    def newest_stamps(self, topics: Iterable[str]) -> list[float]:
        """Return the newest timestamp of each partition, in seconds since 1970; none for empty."""
        from confluent_kafka import KafkaException, TopicPartition
        from confluent_kafka.admin import OffsetSpec

        admin = self._admin()
        asked = {
            TopicPartition(topic, number): OffsetSpec.max_timestamp()
            for topic, found in admin.list_topics(timeout=_ASK_TIMEOUT_S).topics.items()
            if topic in set(topics)
            for number in found.partitions
        }
        stamps: list[float] = []
        futures = admin.list_offsets(asked, request_timeout=_ASK_TIMEOUT_S) if asked else {}
        for future in futures.values():
            with suppress(KafkaException):
                stamps.append(future.result().timestamp / 1000)
        return [stamp for stamp in stamps if stamp > 0]


def client_versions() -> ClientVersions | None:
    """Return the versions of the Kafka client, None where none is installed."""
    try:
        import confluent_kafka
    except ImportError:
        return None
    return ClientVersions(confluent_kafka.version(), confluent_kafka.libversion()[0])


def producer_is_replaced() -> bool:
    """Return whether an instrumentation has put its own class in place of the producer's."""
    try:
        import confluent_kafka
    except ImportError:
        return False
    return not confluent_kafka.Producer.__module__.startswith(("cimpl", "confluent_kafka"))


def obstacle(address: tuple[str, int]) -> str | None:
    """Return why no connection to an address can be made, None where it can."""
    host, port = address
    try:
        with socket.create_connection((host, port), timeout=_SOCKET_TIMEOUT_S):
            return None
    except TimeoutError:
        return "does not answer"
    except socket.gaierror:
        return "cannot be resolved"
    except (OSError, ValueError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error).lower()


def speaks_tls(address: tuple[str, int]) -> bool | None:
    """Return whether a server offers TLS on an address; None where that cannot be told."""
    # Nothing is trusted and nothing is sent: the question is only which protocol answers.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(address, timeout=_SOCKET_TIMEOUT_S) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except ssl.SSLError as error:
        # An alert (the server wants a certificate, say) is an answer in TLS.
        return "ALERT" in (error.reason or "").upper()
    except OSError:
        return None


def _address(entry: str) -> tuple[str, int]:
    host, _, port = entry.strip().rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        host, port = f"{host}:{port}" if host else port, "9092"
    return host.strip("[]"), int(port)


def _state(topic: str, future: Any, settings: Mapping[str, str] | None) -> TopicState:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AclOperation

    try:
        found = future.result()
    except KafkaException as error:
        # librdkafka's own errors are not about the topic: no answer, or too old a broker.
        if error.args[0].name().startswith("_"):
            raise BrokerUnavailable(f"Kafka did not answer: {error.args[0].str()}") from error
        return TopicState(topic, error=(error.args[0].name(), error.args[0].str()))
    operations = found.authorized_operations
    replicas = [len(partition.replicas) for partition in found.partitions]
    return TopicState(
        topic,
        replicas=min(replicas, default=0),
        in_sync=min((len(partition.isr) for partition in found.partitions), default=0),
        leaderless=sum(_has_no_leader(partition) for partition in found.partitions),
        may_write=AclOperation.WRITE in operations if operations else None,
        settings=settings,
    )


def _has_no_leader(partition: Any) -> bool:
    return partition.leader is None or partition.leader.id < 0
