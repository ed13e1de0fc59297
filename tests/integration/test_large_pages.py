"""Pages so large that messages are confirmed in runs: what becomes of one that cannot be sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing

import psycopg
import pytest

from outbox.database import DatabaseUrl
from outbox.errors import BrokerUnavailable, MessageRefused
from outbox.migrations import migrate
from outbox.names import Names
from outbox.publishers.kafka import KafkaPublisher
from outbox.publishers.reports import Report, Reports, SentPage
from outbox.relay.relay import Relay
from outbox.store.opening import open_store
from tests.servers.kafka_topics import KafkaServer

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

KEYS, EACH = 50, 100
GUILTY = ("k7", 64)  # in the midst of what the first pages hold
SMALL = 10_000  # bytes that the topic takes in one batch
ATTEMPTS = 10


@pytest.fixture
def topic(postgresql_url: str, kafka: KafkaServer) -> str:
    """Give a topic for which messages are in the log, one of which only the broker can refuse."""
    migrate(postgresql_url)
    topic = kafka.create_topic(partitions=3, max_message_bytes=str(SMALL))
    with psycopg.connect(postgresql_url) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "insert into outbox_message (topic, key, payload) values (%s, %s, %s)",
            [
                (topic, f"k{key}", os.urandom(2 * SMALL) if (f"k{key}", n) == GUILTY else b"%d" % n)
                for n in range(EACH)
                for key in range(KEYS)
            ],
        )
    return topic


@pytest.fixture
def relay(postgresql_url: str, kafka: KafkaServer) -> Iterator[Relay]:
    # Compressed, so that nobody knows before the broker does that the batch is too large.
    properties = {"bootstrap.servers": kafka.bootstrap_servers, "compression.type": "gzip"}
    store = open_store(DatabaseUrl.parse(postgresql_url), Names())
    with closing(Relay(store, lambda: KafkaPublisher(properties))) as relay:
        yield relay


def test_a_message_that_only_the_broker_can_refuse_is_found_and_the_others_arrive_in_order(
    relay: Relay,
    topic: str,
    postgresql_url: str,
    kafka: KafkaServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Given a relay whose pages are confirmed in runs
    sizes: list[int] = []
    on_runs = Reports.on_runs

    def noted(self: Reports, page: SentPage, partitions: Sequence[int]) -> Iterable[Report | None]:
        sizes.append(len(page.records))
        return on_runs(self, page, partitions)

    monkeypatch.setattr(Reports, "on_runs", noted)

    # When it tries again after each failure
    failures = _until_well(relay)

    # Then it has sent such pages, and has found the message after a few attempts
    assert sizes
    assert 1 <= failures <= 5
    with psycopg.connect(postgresql_url) as connection:
        held = connection.execute("select key, state from outbox_held order by seq").fetchall()
    assert held == [("k7", "retrying"), *[("k7", "blocked")] * (EACH - GUILTY[1] - 1)]

    # And all others are there, first occurrences in the order of their keys
    arrived: dict[str, dict[int, None]] = {}
    for message in kafka.read(topic):
        arrived.setdefault(message.key().decode(), {})[int(message.value())] = None
    whole = list(range(EACH))
    expected = {f"k{key}": whole for key in range(KEYS)} | {"k7": whole[: GUILTY[1]]}
    assert {key: list(numbers) for key, numbers in arrived.items()} == expected


def _until_well(relay: Relay) -> int:
    """Return how many attempts failed before all was delivered or held."""
    for failures in range(ATTEMPTS):
        try:
            relay.run_once()
        except (BrokerUnavailable, MessageRefused):
            continue
        return failures
    pytest.fail(f"not well after {ATTEMPTS} attempts")
