"""Fixtures for the tests of applications. Importing this loads nothing; using a fixture does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from outbox.testing.faults import Faults
    from outbox.testing.kafka import KafkaMock
    from outbox.testing.outbox_log import AsyncOutboxLog, OutboxLog


@pytest.fixture
def outbox_log() -> type[OutboxLog]:
    """What a test adds to the outbox: `log = outbox_log(session)`, then `log.assert_added(…)`.

    Call it before the code under test, with what that passes to `Outbox.add` (a session, a
    connection), or with an Engine or a URL to see what is committed: it notes where the log stands,
    and the methods `added`, `assert_added`, `refute_added` and `drain` look at what came later.
    With a session fixture of yours, make it a fixture in conftest.py:

        @pytest.fixture
        def log(outbox_log, session):
            return outbox_log(session)
    """
    from outbox.testing.outbox_log import OutboxLog

    return OutboxLog


@pytest.fixture
def outbox_log_async() -> type[AsyncOutboxLog]:
    """The same for asyncio: `log = await outbox_log_async.open(async_session)`."""
    from outbox.testing.outbox_log import AsyncOutboxLog

    return AsyncOutboxLog


@pytest.fixture
def outbox_faults() -> Iterator[Faults]:
    """Faults on demand, for `drain(…, faults=outbox_faults)` and `deliver(…, faults=…)`.

    `fail_sends`, `duplicate`, `refuse`, `hang` and `resume` for the broker, `fail_commits` for the
    handler's database. Those that did not happen are forgotten after the test.
    """
    from outbox.testing.faults import Faults

    faults = Faults()
    yield faults
    faults.clear()


@pytest.fixture
def kafka_mock() -> Iterator[KafkaMock]:
    """Give a Kafka of one broker in this process, for one test: `kafka_mock.bootstrap_servers`.

    `create_topic`, `send` and `read`; `fail_sends`, `delay`, `take_down` and `bring_up`. It is
    librdkafka's mock cluster: in memory, the last 5 MiB or 100,000 messages of a partition.
    """
    from outbox.testing.kafka import KafkaMock

    with KafkaMock() as kafka:
        yield kafka
