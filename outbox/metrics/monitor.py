"""Watches one relay, and keeps what its health and its metrics are made of."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import itemgetter

from outbox.metrics import catalogue
from outbox.metrics.delays import delays
from outbox.metrics.figures import Figures
from outbox.metrics.pulse import BROKER_CALL_S, Pulse, Server
from outbox.metrics.sample import HeldSample, Sample
from outbox.record import DeliveryMode, Page, Record
from outbox.version import __version__

_topic = itemgetter(2)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What a relay waits for, "database", "broker" or "topic", why, and since when (Unix time)."""

    cause: str
    reason: str
    since: float


class RelayMonitor:
    """Implements the relay's Observer. Called in the relay's thread, read in others.

    `stall_s`: after how many seconds without a turn of its loop the relay counts as dead.
    """

    def __init__(
        self,
        relay: str,
        *,
        stall_s: float = 60.0,
        lease_s: float = 10.0,
        delivery: DeliveryMode = "at-least-once",
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.relay = relay
        self.figures = Figures(relay)
        self.pulse = Pulse(stall_s, max(BROKER_CALL_S, lease_s))
        self.state = "starting"
        self.lanes: dict[str, int] = {}
        self.paused_lanes: frozenset[str] = frozenset()
        self.closed_topics: frozenset[str] = frozenset()
        self.trouble: Trouble | None = None
        self.schema_fits = False
        self.progress_at: float | None = None
        self.sample: Sample | None = None
        self.on_histogram: Callable[[catalogue.Metric, float], None] | None = None
        self._batch: int | None = None
        self._clock = wall_clock
        self.delivery = delivery
        self.figures.put(catalogue.BUILD, 1, __version__)
        self.figures.put(catalogue.DELIVERY, 1, delivery)
        self.figures.put(catalogue.PAUSED, 0, "default")

    def waiting(self, server: Server) -> AbstractContextManager[None]:
        """Return the context of a call that may wait for a server; its ends are heartbeats."""
        return self.pulse.waiting(server)

    # What the relay is

    def connected(self) -> None:
        """Note that the database was reached and its tables fit."""
        self.schema_fits = True

    def began_term(self, lane: str, epoch: int) -> None:
        """Note that this process holds a lane, or a shard of one."""
        self.state, self._batch = "relaying", None
        self.lanes = {**self.lanes, lane: epoch}
        self.figures.put(catalogue.LEADER, 1, lane)

    def ended_term(self, lane: str) -> None:
        """Note that it does not any more; what was in flight is in doubt, and nobody's."""
        self.lanes = {each: epoch for each, epoch in self.lanes.items() if each != lane}
        self.figures.put(catalogue.LEADER, 0, lane)
        if not self.lanes:
            self.figures.put(catalogue.IN_FLIGHT, 0)

    def stands_by(self) -> None:
        """Note that another process holds the lane, and what it needs is not our trouble."""
        self.state = "standby"
        self._tell_leaders(())
        self.recovered()

    def lost_lease(self) -> None:
        """Note that another process has taken the lane."""
        self.state = "standby"
        self.figures.add(catalogue.LEASE_LOST, 1)

    def failed(self, cause: str) -> None:
        """Note that a term ended early, for want of "database", "broker" or "topic"."""
        self.state = "waiting"
        self.figures.add(catalogue.FAILURES, 1, cause)

    def refused(self) -> None:
        """Note that the broker will not take a message."""
        self.figures.add(catalogue.REFUSED, 1)

    def held(self, states: Mapping[str, int]) -> None:
        """Note that messages were put aside, by state."""
        for state, count in states.items():
            self.figures.add(catalogue.HELD, count, state)
        self.figures.add(catalogue.GIVEN_UP, states.get("dead", 0))

    def retried(self, delivered: Sequence[Record], failed: Mapping[str, int]) -> None:
        """Note what came of held messages that were tried again."""
        self.figures.add(catalogue.RETRIED, len(delivered), "delivered")
        self.figures.add(catalogue.RETRIED, sum(failed.values()), "failed")
        self.figures.add(catalogue.GIVEN_UP, failed.get("dead", 0))
        self._note_sent(delivered)

    def closed(self, topics: Collection[str]) -> None:
        """Note which topics cannot be written to, and are waited for."""
        for topic in self.closed_topics.difference(topics):
            self.figures.end(catalogue.TOPIC_CLOSED, topic)
        for topic in topics:
            self.figures.put(catalogue.TOPIC_CLOSED, 1, topic)
        self.closed_topics = frozenset(topics)

    def fenced(self) -> None:
        """Note that Kafka has shut this process out."""
        self.figures.add(catalogue.FENCED, 1)

    def troubled(self, cause: str, reason: str) -> None:
        """Note what the relay waits for."""
        if self.trouble is None or self.trouble.cause != cause:
            self.trouble = Trouble(cause, reason, self._clock())
        for each in catalogue.OBSTACLES:
            self.figures.put(catalogue.WAITING, float(each == cause), each)

    def recovered(self) -> None:
        """Note that it waits no more."""
        if self.trouble is not None:
            self.trouble = None
            for each in catalogue.OBSTACLES:
                self.figures.put(catalogue.WAITING, 0, each)

    def limited(self, limited: bool) -> None:
        """Note whether the limit of the rate holds messages back."""
        self.figures.put(catalogue.LIMITED, float(limited))

    def paused(self, streams: Collection[str]) -> None:
        """Note what operators have paused."""
        for lane in self.paused_lanes.difference(streams):
            self.figures.put(catalogue.PAUSED, 0, lane)
        for lane in streams:
            self.figures.put(catalogue.PAUSED, 1, lane)
        self.paused_lanes = frozenset(streams)

    # What it does

    def progressed(self) -> None:
        """Note that messages arrived, or that there were none."""
        self.progress_at = self._clock()
        self.figures.put(catalogue.LAST_PROGRESS, self.progress_at)

    def sent(self, page: Page) -> None:
        """Note that a page is on its way."""
        self.figures.add(catalogue.IN_FLIGHT, len(page.records))
        if page.batch != self._batch:
            self._batch = page.batch
            self.figures.add(catalogue.BATCHES, 1)

    def settled(self, page: Page, seconds: float) -> None:
        """Note that every message of a page is acknowledged, so long after it was handed over."""
        if not page.records:
            return
        self.figures.add(catalogue.IN_FLIGHT, -len(page.records))
        self._observe(catalogue.SEND_DURATION, seconds)
        self._note_sent(page.records)

    def _note_sent(self, records: Sequence[Record]) -> None:
        for topic, count in Counter(map(_topic, records)).items():
            self.figures.add(catalogue.SENT, count, topic)
        self._note_delays(records)

    def _note_delays(self, records: Sequence[Record]) -> None:
        for delay_s, weight in delays(records, self._clock()):
            if delay_s is None:
                self.figures.add(catalogue.DELAY_UNKNOWN, weight)
                continue
            if delay_s < 0:
                self.figures.add(catalogue.DELAY_NEGATIVE, weight)
            self._observe(catalogue.PUBLISH_DELAY, max(delay_s, 0.0), weight)

    def _observe(self, metric: catalogue.Metric, value: float, weight: int = 1) -> None:
        self.figures.observe(metric, value, weight)
        if self.on_histogram is not None:
            self.on_histogram(metric, value)

    # What the database knows; called in the sampler's thread

    @property
    def wants_samples(self) -> bool:
        """Return whether the backlog is this process's to tell: it holds the lane, or would.

        On standby another one does. A relay that waits for its broker goes on, for that is when a
        backlog grows.
        """
        return self.state in ("relaying", "waiting")

    def sampled(self, sample: Sample) -> None:
        """Take a sample."""
        figures = self.figures
        self._put_backlog(sample)
        figures.put(catalogue.PROCESSES, sample.processes)
        figures.put(catalogue.LOG_SIZE, sample.log_bytes)
        for kind in catalogue.TRANSACTIONS.values:
            ages = sample.transactions.get(kind, ())
            figures.put(catalogue.TRANSACTIONS, len(ages), kind)
            figures.put(catalogue.TRANSACTION_AGE, max(ages, default=0.0), kind)
        figures.put(catalogue.SCHEDULED, sample.scheduled, "scheduled")
        figures.put(catalogue.SCHEDULED, sample.waiting, "waiting")
        figures.put(catalogue.OVERDUE, sample.overdue_s)
        self._put_held(sample.held)
        for of in catalogue.PAUSES.values:
            figures.put(catalogue.PAUSES, sample.pauses.get(of, 0), of)
        figures.put(catalogue.OLDEST_PAUSE, sample.oldest_pause_s)
        for lane, count in sample.other_lanes.items():
            figures.add(catalogue.UNDECLARED, count, lane)
        figures.put(catalogue.SAMPLED_AT, sample.taken_at)
        self.sample = sample

    def _put_backlog(self, sample: Sample) -> None:
        """Tell of the lanes that this process holds; of all where it holds none but would."""
        self.figures.forget((catalogue.PENDING, catalogue.OLDEST))
        for lane in sample.lanes:
            if not self.lanes or lane.lane in self.lanes:
                self.figures.put(catalogue.PENDING, lane.pending, lane.lane)
                self.figures.put(catalogue.OLDEST, lane.oldest_s or 0.0, lane.lane)
        self._tell_leaders([lane.lane for lane in sample.lanes])

    def _put_held(self, held: HeldSample) -> None:
        for state in catalogue.HELD_NOW.values:
            self.figures.put(catalogue.HELD_NOW, held.messages.get(state, 0), state)
        for state in catalogue.OLDEST_HELD.values:
            self.figures.put(catalogue.OLDEST_HELD, held.oldest_seconds.get(state, 0.0), state)
        self.figures.put(catalogue.STOPPED_KEYS, held.stopped_keys)

    def _tell_leaders(self, present: Collection[str]) -> None:
        """Say of each lane there is whether this process holds it, and of no other.

        A lane that was removed and is said for ever to be held by nobody would be an alert.
        """
        for lane in present:
            self.figures.begin(catalogue.LEADER, lane)
        for reading in self.figures.readings(catalogue.LEADER):
            (lane,) = reading.labels
            if lane not in self.lanes and lane not in present:
                self.figures.end(catalogue.LEADER, lane)

    def sample_failed(self) -> None:
        """Forget the last sample: an old backlog shown as the present one would be a lie."""
        self.figures.add(catalogue.SAMPLE_FAILURES, 1)
        self.forget_sample()

    def forget_sample(self) -> None:
        """Let there be no sampled figures until the next sample."""
        self.sample = None
        self.figures.forget(catalogue.SAMPLED)
