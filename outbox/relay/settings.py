"""What a relay can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from outbox.config.retry_rules import RetryRules
from outbox.errors import ConfigurationError
from outbox.names import check_name
from outbox.record import DeliveryMode

_MIB = 1024 * 1024

_LONGEST_HEARTBEAT_S = 3.0


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Settings of a relay process; times in seconds, sizes in bytes.

    `poll_interval_s`: how often an idle relay looks, at the least. `lease_s`: how long a lane stays
    with a relay that has died. `drain_timeout_s`: how long a relay that is told to stop waits for
    acknowledgements. `connect_timeout_s`: after how long a drain gives up on servers that are away.
    `prune_interval_s`: how often it looks for old messages to remove.
    `max_messages_per_second`, `max_bytes_per_second`: how fast this process may send, bytes being
    those of payloads; None is as fast as it can.
    `retry`: what becomes of messages that cannot be sent; None: the relay ends at the first one.
    `in_flight_messages` bounds what a frozen relay can send when it wakes up, and what is sent
    again after a crash; exactly once, where neither can happen, twice as many may be on their way,
    so that a page is prepared while a transaction ends.
    """

    name: str = "default"
    delivery: DeliveryMode = "at-least-once"
    poll_interval_s: float = 0.05
    lease_s: float = 10.0
    drain_timeout_s: float = 10.0
    connect_timeout_s: float = 30.0
    save_interval_s: float = 0.25
    idle_save_interval_s: float = 0.1
    prune_interval_s: float = 30.0
    page_messages: int = 2_000
    page_bytes: int = 4 * _MIB
    in_flight_messages: int = 10_000
    in_flight_bytes: int = 16 * _MIB
    max_messages_per_second: float | None = None
    max_bytes_per_second: float | None = None
    retry: RetryRules | None = field(default_factory=RetryRules)

    @property
    def heartbeat_s(self) -> float:
        """Return how often a process says that it lives: often, however long a lease lasts, since
        others leave it its share of the lanes until it has been silent for three times that."""
        return min(self.lease_s / 3, _LONGEST_HEARTBEAT_S)

    def __post_init__(self) -> None:
        check_name("relay", self.name)
        if self.delivery not in ("at-least-once", "exactly-once"):
            raise ConfigurationError(
                f"{self.delivery!r} is not a way of delivery: use at-least-once or exactly-once"
            )
        for setting in ("poll_interval_s", "lease_s", "page_messages", "page_bytes"):
            if getattr(self, setting) <= 0:
                raise ConfigurationError(f"{setting} must be greater than 0")
        for setting in ("max_messages_per_second", "max_bytes_per_second"):
            limit = getattr(self, setting)
            if limit is not None and not 0 < limit < math.inf:
                raise ConfigurationError(f"{setting} must be greater than 0, or None for no limit")
        if self.lease_s < 1:
            raise ConfigurationError("the lease must be at least 1 second")
