"""PostgreSQL with logical decoding and Kafka, for ours and for the rivals alike."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.servers.kafka import KafkaCluster
from tests.servers.postgresql import PrivatePostgreSQL

#: Debezium needs the first; without the others a slow machine cuts its replication off.
SETTINGS = {"wal_level": "logical", "wal_sender_timeout": "0", "max_wal_size": "4GB"}


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """Yield a database's URL and Kafka's address, as `benchmarks.conditions.servers` does.

    A database that is given must have `wal_level = logical` where Debezium is to run.
    """
    with ExitStack() as stack:
        url = os.environ.get("OUTBOX_BENCH_DATABASE_URL")
        bootstrap = os.environ.get("OUTBOX_BENCH_KAFKA_BOOTSTRAP")
        if url is None:
            postgresql = stack.enter_context(PrivatePostgreSQL(settings=SETTINGS))
            url = postgresql.create_database("bench")
        if bootstrap is None:
            bootstrap = stack.enter_context(KafkaCluster()).bootstrap_servers
        yield url, bootstrap
