"""A log, a topic, and a relay that does what the test tells it to, right or wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from outbox.database import DatabaseUrl
from outbox.headers import wire_headers
from outbox.names import Names
from outbox.record import Record
from outbox.store.opening import open_retained_log
from outbox.store.owner import new_owner
from outbox.verify.report import Report, TopicReport
from outbox.verify.topic import TopicReader
from outbox.verify.verification import Scope, verify
from tests.conformance.store_kit import LEASE_S, StoreKit, read_all
from tests.servers.kafka_topics import KafkaServer


class Parcel(NamedTuple):
    """What goes to Kafka for one message."""

    key: str | None
    payload: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def header(self, name: str) -> str:
        return dict(self.headers)[name].decode()

    def with_header(self, name: str, value: str | None) -> Parcel:
        kept = tuple(pair for pair in self.headers if pair[0] != name)
        return self._replace(headers=kept if value is None else ((name, value.encode()), *kept))


Tamper = Callable[[list[Parcel]], Sequence[Parcel]]


@dataclass
class World:
    """`send` reads what waits, as a relay would, lets `tamper` change it, and saves the cursor."""

    kit: StoreKit
    kafka: KafkaServer
    topic: str
    relay: str = "default"
    _opened: list[Any] = field(default_factory=list)

    def write(self, *keys: str | None) -> None:
        """Commit a message for each key, each in a transaction of its own."""
        writer = self.kit.writer()
        for key in keys:
            with self.kit.transaction(writer):
                self.kit.write(writer, key, topic=self.topic)  # type: ignore[arg-type]  # None is no key

    def send(
        self,
        tamper: Tamper = lambda parcels: parcels,
        relay: str | None = None,
        *,
        stream: str = "default",
        saved: bool = True,
    ) -> list[Parcel]:
        """Deliver everything; return what the topic was given."""
        store = self.kit.store()
        lease = store.acquire(relay or self.relay, stream, new_owner(), LEASE_S)
        prefix = f"{lease.log_id}/{lease.relay}/{lease.lane}"
        pages = read_all(store.reader(lease))
        parcels = [
            _parcel(Record(*record), f"{prefix}/{page.batch}/{record[0]}")
            for page in pages
            for record in page.records
        ]
        sent = list(tamper(parcels))
        self.produce(sent)
        end = pages[-1].end if pages and saved else lease.position
        store.save(lease, end, LEASE_S)
        store.release(lease, end)
        return sent

    def produce(self, parcels: Sequence[Parcel], end: str = "commit") -> None:
        """Send records in their order; `end` "abort" or "open" for a transaction."""
        settings = {
            "bootstrap.servers": self.kafka.bootstrap_servers,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
        }
        if end != "commit":
            settings["transactional.id"] = f"verify-{self.topic}"
        producer = Producer(settings)
        if end != "commit":
            producer.init_transactions(30)
            producer.begin_transaction()
        for parcel in parcels:
            producer.produce(self.topic, parcel.payload, parcel.key, headers=list(parcel.headers))
        assert producer.flush(30) == 0
        if end == "abort":
            producer.abort_transaction(30)
        elif end == "open":
            self._opened.append(producer)

    def end_transactions(self) -> None:
        while self._opened:
            self._opened.pop().abort_transaction(30)

    def delete_records(self, before: dict[int, int]) -> None:
        """Delete the records of partitions before an offset, as the topic's retention does."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers})
        places = [TopicPartition(self.topic, *place) for place in before.items()]
        for future in admin.delete_records(places).values():
            future.result(30)

    def verify(self, **arguments: Any) -> Report:
        """Compare everything."""
        return compared(self.kit.url, self.kafka, **{"relay": self.relay, **arguments})

    def verdict(self, **arguments: Any) -> TopicReport:
        """Return what was found of the one topic."""
        (topic,) = self.verify(**arguments).topics
        return topic

    def close(self) -> None:
        self.end_transactions()
        self.kit.close()


def compared(
    url: DatabaseUrl,
    kafka: KafkaServer,
    *,
    isolation: str = "read_committed",
    timeout_s: float = 30.0,
    progress: Callable[[str, int, int | None], None] = lambda *_: None,
    **scope: Any,
) -> Report:
    """Compare a log with its topics, as the command does."""
    reader = TopicReader(
        {"bootstrap.servers": kafka.bootstrap_servers}, isolation=isolation, timeout_s=timeout_s
    )
    with closing(open_retained_log(url, Names())) as log:
        log.connect()
        return verify(log, reader, Scope(**scope), isolation=isolation, progress=progress)


def _parcel(record: Record, position: str) -> Parcel:
    headers = wire_headers(record.id, None, None, None, None, position, None)
    return Parcel(
        record.key, record.payload, tuple((name, value or b"") for name, value in headers)
    )


def world(url: DatabaseUrl, kafka: KafkaServer, partitions: int = 3) -> Iterator[World]:
    """Make one, and end it."""
    made = World(StoreKit(url), kafka, kafka.create_topic(partitions=partitions))
    yield made
    made.close()
