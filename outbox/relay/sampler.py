"""Looks now and then at what only the database knows, beside the relay and never in its way."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

from outbox.metrics.sample import HeldSample, LaneSample, Sample
from outbox.store.base import LogGauges

logger = logging.getLogger("outbox.relay")

#: How often it looks, and how soon it notices that it should, in seconds.
INTERVAL_S = 15.0
_TICK_S = 0.5

#: How long the end of the relay waits for a query that is under way, in seconds.
_PATIENCE_S = 1.0

#: A lane for each customer would fill the log with warnings.
_MOST_WARNINGS = 20


class SampleTaker(Protocol):
    """Who wants samples."""

    @property
    def wants_samples(self) -> bool:
        """Whether they are of use now."""

    def sampled(self, sample: Sample) -> None:
        """Take one."""

    def sample_failed(self) -> None:
        """The database did not answer."""

    def forget_sample(self) -> None:
        """Samples are not of use any more."""


class Sampler:
    """Samples one relay name in a thread of its own, with a connection of its own, while wanted.

    A context manager. Whatever fails is counted and tried again; it never reaches the relay.
    """

    def __init__(
        self,
        open_store: Callable[[], LogGauges],
        relay: str,
        taker: SampleTaker,
        *,
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._open_store = open_store
        self._relay = relay
        self._taker = taker
        self._interval_s = interval_s
        self._ended = threading.Event()
        # A daemon: a query that the database never answers must not keep the process.
        self._thread = threading.Thread(target=self._run, name="outbox-sampler", daemon=True)
        self._mark = 0
        self._undeclared: set[str] = set()

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(_PATIENCE_S)

    def _run(self) -> None:
        while not self._ended.wait(_TICK_S):
            if self._taker.wants_samples:
                self._sample_while_wanted()
                self._taker.forget_sample()

    def _sample_while_wanted(self) -> None:
        try:
            with closing(self._open_store()) as store:
                while self._taker.wants_samples and not self._ended.is_set():
                    store.connect()
                    self._taker.sampled(self._sample(store))
                    self._rest()
        except Exception as error:  # noqa: BLE001 - it may be anything, and must not end the thread
            self._taker.sample_failed()
            logger.debug("no sample: %s", error, extra={"event": "relay.no_sample"})
            self._ended.wait(self._interval_s)

    def _rest(self) -> None:
        """Wait for the next time, or until nobody wants it."""
        until = time.monotonic() + self._interval_s
        while time.monotonic() < until and self._taker.wants_samples:
            if self._ended.wait(min(_TICK_S, self._interval_s)):
                return

    def _sample(self, store: LogGauges) -> Sample:
        store.count_backlog()
        streams = store.status(self._relay)
        transactions: dict[str, tuple[float, ...]] = {}
        for blocker in store.blockers():
            ages = transactions.get(blocker.kind, ())
            transactions[blocker.kind] = (*ages, blocker.age_seconds)
        named, self._mark = store.other_lanes(self._mark)
        declared = {lane.name for lane in store.lanes()}
        undeclared = {lane: count for lane, count in named.items() if lane not in declared}
        self._warn(undeclared)
        waits = store.schedule().status()
        held = store.held_admin().overview(self._relay)
        pauses = [each for each in store.pauses().in_force() if each.concerns(self._relay)]
        return Sample(
            taken_at=time.time(),
            lanes=tuple(
                LaneSample(each.lane, each.lag_messages, each.lag_is_exact, each.lag_seconds)
                for each in streams
            ),
            processes=len(streams[0].processes),
            log_bytes=store.log_bytes(),
            transactions=transactions,
            other_lanes=undeclared,
            scheduled=waits.scheduled,
            waiting=waits.waiting,
            overdue_s=max(-(waits.next_due_seconds or 0.0), 0.0),
            held=HeldSample(
                dict(held.messages.items()), dict(held.oldest_seconds.items()), held.stopped_keys
            ),
            pauses=Counter("lane" if each.target.topic is None else "topic" for each in pauses),
            oldest_pause_s=max((time.time() - each.at for each in pauses), default=0.0),
        )

    def _warn(self, lanes: dict[str, int]) -> None:
        """Say of each lane once that nobody declared it."""
        for lane in sorted(lanes.keys() - self._undeclared):
            if len(self._undeclared) == _MOST_WARNINGS:
                return
            self._undeclared.add(lane)
            logger.warning(
                "messages name the lane %r, which is not declared: they go through lane 'default', "
                "in order with all others; declare it with `outbox-relay lanes declare %s`",
                lane,
                lane,
                extra={"event": "relay.undeclared_lane"},
            )
