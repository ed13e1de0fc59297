"""All checks, in the order in which they are made and shown."""

from __future__ import annotations

from outbox.doctor import broker, configuration, database, lanes, log, relays, topics, tracing
from outbox.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    *configuration.CHECKS,
    *database.CHECKS,
    *log.CHECKS,
    *relays.CHECKS,
    *lanes.CHECKS,
    *broker.CHECKS,
    *topics.CHECKS,
    *tracing.CHECKS,
)
