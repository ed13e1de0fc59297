"""Holds what cannot be sent, and tries it again: the rim of what `held` decides."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from outbox.config.retry_rules import RetryPolicy, RetryRules
from outbox.errors import MessageRefused
from outbox.record import Position, Record, any_expired
from outbox.relay.held import (
    Attempt,
    Divider,
    Division,
    after_refusal,
    deadly,
    expired,
    group_of,
    places_in,
    waiting,
)
from outbox.store.base import Lease
from outbox.store.held import HeldRecord, HeldStore, Hold, Place

logger = logging.getLogger("outbox.relay")

#: Up to this many stopped keys are known in memory; above it, every page asks for its own.
_KNOWN_KEYS = 10_000

#: How often, in seconds, to look what operators have done, and to look for lost heads, of so many
#: keys at a time.
_LOOK_S = 1.0
_MEND_S = 10.0
_MENDED = 500

#: Messages of a topic that is there again are made due so many at a time.
_WOKEN = 500

#: How many held messages are sent together, in messages and bytes.
_GROUP, _GROUP_BYTES = 500, 4 * 1024 * 1024

#: With fewer places in a group for each key than this, it is not asked what comes after the first.
_WORTH_IT = 5

#: How often a topic is tried that cannot be written to.
_PROBES = RetryPolicy(first_s=1.0, max_s=30.0, max_attempts=None)


@dataclass(slots=True)
class _Closed:
    """A topic that cannot be written to. Times by the relay's clock."""

    reason: str
    attempts: int
    next_at: float
    #: Nothing waits for it any more; only its next message will try it.
    idle: bool = False


class Holding:
    """What one stream holds. It outlives terms, as the topics do that cannot be written to.

    With nothing held it costs a comparison a page. `rules` None: nothing is ever held.
    """

    def __init__(
        self,
        open_held: Callable[[], HeldStore],
        rules: RetryRules | None,
        clock: Callable[[], float],
        draw: random.Random,
    ) -> None:
        self._open = open_held
        self._rules = rules or RetryRules()
        self.enabled = rules is not None
        self._clock = clock
        self._draw = draw
        self._keys: set[Place] | None = set()
        # Whether another stream may have held messages of our keys since we looked.
        self._shared = False
        self._closed: dict[str, _Closed] = {}
        self._waking: list[str] = []
        self._paused: frozenset[str] = frozenset()
        self._look_at = float("inf")
        self._mend_at = 0.0
        self._mended_to: Place | None = None
        self._group = _GROUP
        #: Whether no two messages may be tried together.
        self.one_by_one = False

    def begin(self, lease: Lease, *, cautious: bool) -> None:
        """Learn what the stream holds, at the beginning of a term."""
        # Also where nothing else is held: what has expired is.
        self._held = self._open()
        self._lease = lease
        if not self.enabled:
            return
        self._group = 1 if cautious or self.one_by_one else _GROUP
        self._shared = self._held.may_be_shared(lease)
        self._keys = self._held.stopped_keys(lease, _KNOWN_KEYS)
        self._learn_closed()
        anything = self._held.outlook(lease).anything
        looks = anything or self._closed or self._shared
        self._look_at = self._clock() if looks else float("inf")
        self._mend_at, self._mended_to = self._clock(), None

    def share(self) -> None:
        """Take it from now on that other streams may hold messages of our keys, or have held."""
        if not self._shared and self.enabled:
            self._look_at = min(self._look_at, self._clock())
        self._shared = True

    def pause(self, topics: frozenset[str]) -> None:
        """Hold what is of these topics, and let others go that were paused until now.

        Those are taken for closed ones that may be there again: the first message of each that was
        held tries it, and the others follow.
        """
        if topics == self._paused:
            return
        for topic in sorted(self._paused - topics):
            logger.info("topic %r is paused no more", topic, extra={"event": "relay.resumed"})
            known = self._closed.setdefault(topic, _Closed(_paused(topic), 0, self._clock()))
            known.next_at = self._clock()
            self._look_at = self._clock()
        for topic in sorted(topics - self._paused):
            logger.info(
                "topic %r is paused; its messages are held", topic, extra={"event": "relay.paused"}
            )
        self._paused = topics

    # What comes out of the log

    def sift(self, records: Sequence[Record]) -> Division | None:
        """Divide a page by what is known before it is sent; None where all of it may be sent."""
        if self._shared and self.enabled:
            self._keys = self._held.stopped_keys(self._lease, _KNOWN_KEYS)
        no_topic = not self._closed and not self._paused
        nothing_stopped = no_topic and self._keys is not None and not self._keys
        if nothing_stopped and not any_expired(records):
            return None
        division = self._divided(records, {})
        return division if division.holds else None

    def refused(
        self, records: Sequence[Record], reasons: Mapping[int, str], topics: Mapping[str, str]
    ) -> Division:
        """Divide a page of which something is refused."""
        self.close_topics(topics)
        return self._divided(records, reasons)

    def close_topics(self, topics: Mapping[str, str]) -> None:
        """Take it that topics cannot be written to for now."""
        for topic, reason in topics.items():
            known = self._closed.get(topic)
            attempts = 1 if known is None else known.attempts + 1
            if known is None:
                logger.warning(
                    "%s; its messages are held", reason, extra={"event": "relay.topic_closed"}
                )
            next_at = self._clock() + _PROBES.delay_s(attempts, self._draw)
            self._closed[topic] = _Closed(reason, attempts, next_at)
            self._look_at = min(self._look_at, next_at)

    @property
    def waited_for(self) -> frozenset[str]:
        """Return the topics that messages wait for until they can be written to."""
        closed = {topic for topic, known in self._closed.items() if not known.idle}
        return frozenset(closed) - self._paused

    def _divided(self, records: Sequence[Record], reasons: Mapping[int, str]) -> Division:
        closed = {topic: known.reason for topic, known in self._closed.items()}
        closed |= {topic: _paused(topic) for topic in self._paused}
        divider = Divider(self._rules, self._draw, self._stopped_of(records), closed)
        return divider.divide(records, reasons)

    def _stopped_of(self, records: Sequence[Record]) -> Container[Place]:
        if self._keys is not None:
            return self._keys
        return self._held.stopped_among(self._lease, places_in(records))

    def hold(self, division: Division, position: Position, lease_s: float) -> None:
        """Hold a part of a page, and move the cursor to `position`, which lies before it."""
        self._held.hold(self._lease, position, lease_s, division.holds)
        if self._keys is not None:
            self._keys |= division.stopped
            if len(self._keys) > _KNOWN_KEYS:
                self._keys = None
        delays = [hold.delay_s for hold in division.holds if hold.delay_s is not None]
        if self.enabled:
            self._look_at = min(self._look_at, self._clock() + min(delays, default=_LOOK_S))
        _say(division.holds)

    # What is tried again

    @property
    def is_due(self) -> bool:
        """Return whether it is time to look for messages to try again."""
        return self.due_in_s <= 0

    @property
    def due_in_s(self) -> float:
        """Return in how many seconds it will be time; infinite where nothing is held."""
        return self._look_at - self._clock()

    def choose(self) -> list[HeldRecord]:
        """Return messages to try now, none if none are due; then sets when to look again."""
        self._tend()
        group = self._probe() or self._due()
        if group:
            self._look_at = self._clock()
        else:
            self._look_later()
        return group

    def _tend(self) -> None:
        self._waking = [topic for topic in self._waking if topic not in self._paused]
        if self._waking and not self._held.wake(self._lease, self._waking[0], _WOKEN):
            self._waking.pop(0)
        if self._clock() >= self._mend_at:
            self._mended_to = self._held.mend(self._lease, self._mended_to, _MENDED)
            self._mend_at = self._clock() + (_LOOK_S if self._mended_to else _MEND_S)
            self._keys = self._held.stopped_keys(self._lease, _KNOWN_KEYS)
            self._learn_closed()

    def _learn_closed(self) -> None:
        """Learn which topics are waited for, also by what was another stream's until now."""
        for topic in self._held.waiting_topics(self._lease):
            reason = f"topic {topic!r} could not be written to; it is tried from time to time"
            self._closed.setdefault(topic, _Closed(reason, 0, self._clock()))

    def _probe(self) -> list[HeldRecord]:
        """Return a message of a topic that may be there again."""
        now = self._clock()
        ripe = [topic for topic, known in self._closed.items() if known.next_at <= now]
        ripe = [topic for topic in ripe if topic not in self._paused]
        for topic in ripe:
            found = self._held.first_waiting(self._lease, topic)
            # Where none is found the topic stays closed: its next message is held, and tries it.
            self._closed[topic].idle = found is None
            if found is not None:
                return [found]
        return []

    def _due(self) -> list[HeldRecord]:
        due = self._held.due(self._lease, _GROUP, _GROUP_BYTES)
        group = group_of(due, self._group)
        share = self._group // max(len(group), 1)
        if not group or share < _WORTH_IT or group[0].attempts:
            return group
        return [held for head in group for held in (head, *self._behind(head, share - 1))]

    def _behind(self, head: HeldRecord, limit: int) -> list[HeldRecord]:
        """Return what comes after a message in its key: a long queue should not go one by one."""
        place = head.place
        if place is None or not head.blocks:
            return []
        return self._held.behind(self._lease, place, limit, _GROUP_BYTES * limit // self._group)

    def _look_later(self) -> None:
        outlook = self._held.outlook(self._lease)
        if not outlook.anything:
            # What another stream holds may become ours when the number of shards changes.
            later = self._clock() + _MEND_S if self._shared else float("inf")
            self._keys, self._look_at = set(), later
            return
        wait_s = _LOOK_S if outlook.next_due_s is None else min(max(outlook.next_due_s, 0), _LOOK_S)
        self._look_at = self._clock() + (0 if self._waking else wait_s)

    def screen(self, attempt: Attempt, deaths_by: Callable[[int], int]) -> None:
        """Take out of an attempt what is not to be sent: what is of paused topics waits for them,
        and what expired since it was held is not tried again.

        `deaths_by`: how many relays a message has killed, by its number.
        """
        fates: dict[int, Hold] = {}
        for index, held in enumerate(attempt.left):
            record = held.record
            if record.expired:
                fates[index] = expired(record.seq, held.attempts)
            elif record.topic in self._paused:
                fates[index] = self._waiting(held)
            elif deaths := deaths_by(record.seq):
                fates[index] = deadly(record, held.blocks, held.attempts, deaths, self._rules)
        attempt.drop(fates)

    def condemn(self, record: Record, deaths: int) -> Division:
        """Hold the only message of a page for what it does to relays.

        Raises MessageRefused where nothing is ever held.
        """
        key = record[3]
        hold = deadly(record, key is not None, 0, deaths, self._rules)
        if not self.enabled:
            raise MessageRefused(cast("str", hold.error))
        stopped = {(record[2], key)} if hold.blocks and key is not None else set()
        return Division([], [hold], stopped, refused=1)

    def refuse(
        self, attempt: Attempt, reasons: Mapping[int, str], topics: Mapping[str, str]
    ) -> None:
        """Take out of an attempt what is refused before anything of it is sent."""
        self.close_topics(topics)
        fates = {index: self._fate(attempt.left[index], why) for index, why in reasons.items()}
        for index, held in enumerate(attempt.left):
            if held.record.topic in topics:
                fates[index] = self._waiting(held)
        attempt.drop(fates)

    def blame(self, attempt: Attempt, reason: str | None, topics: Mapping[str, str]) -> None:
        """Note what failed after it was sent. `reason`: why a message was refused.

        It is certain which one only where one alone is not acknowledged.
        """
        self.close_topics(topics)
        open_ones = attempt.unacknowledged
        if reason is not None and len(open_ones) == 1:
            attempt.failed.append(self._fate(open_ones[0], reason))
        attempt.failed += [self._waiting(h) for h in open_ones[:1] if h.record.topic in topics]

    def _fate(self, held: HeldRecord, reason: str) -> Hold:
        return after_refusal(
            held.record,
            held.attempts,
            held.age_s,
            held.blocks,
            reason,
            self._rules,
            self._draw,
        )

    def _waiting(self, held: HeldRecord) -> Hold:
        topic = held.record.topic
        reason = _paused(topic) if topic in self._paused else self._closed[topic].reason
        place = held.place if held.blocks else None
        return waiting(held.record.seq, place, reason, held.attempts)

    def settle(self, attempt: Attempt, position: Position, lease_s: float) -> None:
        """Note what became of an attempt."""
        free = self._held.settle(self._lease, position, lease_s, attempt.delivered, attempt.failed)
        if self._keys is not None:
            self._keys -= free
        done = set(attempt.delivered)
        for held in attempt.group:
            topic = held.record.topic
            if held.record.seq in done and self._closed.pop(topic, None) is not None:
                logger.info("topic %r is there again", topic, extra={"event": "relay.topic_open"})
                self._waking.append(topic)
        if attempt.is_complete and not self.one_by_one:
            self._group = min(self._group * 2, _GROUP)
        _say(attempt.failed)


def _paused(topic: str) -> str:
    return f"topic {topic!r} is paused; see `outbox-relay paused`"


def _say(holds: Sequence[Hold]) -> None:
    """Say what is held for its own fault; of many at once, of the first."""
    told = [hold for hold in holds if hold.fault in ("message", "crash")]
    for hold in told[:1]:
        logger.warning(
            "%s. It is %s%s; see `outbox-relay held list`",
            hold.error,
            "dead" if hold.state == "dead" else f"held, after attempt {hold.attempts}",
            f", as are {len(told) - 1} others" if len(told) > 1 else "",
            extra={"event": f"relay.message_{hold.state}"},
        )
    if gone := sum(hold.state == "expired" for hold in holds):
        logger.warning(
            "not sent, since their time was over: %d; see `outbox-relay held list`",
            gone,
            extra={"event": "relay.message_expired"},
        )
