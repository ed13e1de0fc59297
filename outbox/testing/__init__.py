"""Help for the tests of applications that use outbox-relay.

Plain functions, for any test runner; with pytest there are fixtures besides (`pytest --fixtures`).

    from outbox.testing import assert_added, deliver, drain

    place_order(session, customer="ada")
    assert_added(session, "orders", key="ada", payload=containing({"customer": "ada"}))
    [message] = drain(session)
    assert deliver(inbox, message, write_bill, transaction_factory=sessions.begin) == [
        Outcome.HANDLED,
        Outcome.DUPLICATE,
    ]
"""

from __future__ import annotations

from outbox.inbox.handling import Outcome
from outbox.publishers.memory import PublishedMessage
from outbox.testing.delivering import Deliveries, assert_takes_effect_once, deliver
from outbox.testing.faults import CommitFailed, Faults
from outbox.testing.functions import (
    added,
    added_async,
    assert_added,
    assert_added_async,
    drain,
    drain_async,
    refute_added,
    refute_added_async,
)
from outbox.testing.kafka import KafkaMock
from outbox.testing.log import AddedMessage
from outbox.testing.matching import containing
from outbox.testing.outbox_log import AsyncOutboxLog, Expectations, OutboxLog
from outbox.testing.received import as_received
from outbox.testing.savepoints import savepoints

__all__ = [
    "AddedMessage",
    "AsyncOutboxLog",
    "CommitFailed",
    "Deliveries",
    "Expectations",
    "Faults",
    "KafkaMock",
    "OutboxLog",
    "Outcome",
    "PublishedMessage",
    "added",
    "added_async",
    "as_received",
    "assert_added",
    "assert_added_async",
    "assert_takes_effect_once",
    "containing",
    "deliver",
    "drain",
    "drain_async",
    "refute_added",
    "refute_added_async",
    "savepoints",
]
