"""All checks, in the order in which they are made and shown."""

from __future__ import annotations

from outbox.doctor import (
    broker,
    configuration,
    database,
    held,
    lanes,
    log,
    relays,
    retries,
    topics,
    tracing,
)
from outbox.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    *configuration.CHECKS,
    *retries.CHECKS,
    *database.CHECKS,
    *log.CHECKS,
    *relays.CHECKS,
    *lanes.CHECKS,
    *held.CHECKS,
    *broker.CHECKS,
    *topics.CHECKS,
    *tracing.CHECKS,
)
