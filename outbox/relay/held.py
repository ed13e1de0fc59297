"""What becomes of messages that cannot be sent. Pure: no clock, no I/O."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from outbox.config.retry_rules import RetryRules
from outbox.record import Mark, Page, Position, Record
from outbox.store.held import HeldRecord, Hold, Place


@dataclass(slots=True)
class Division:
    """A page, divided into what may be sent and what must be held.

    `stopped`: keys that are stopped from here on; `refused`: how many are to blame themselves.
    """

    sent: list[Record] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    stopped: set[Place] = field(default_factory=set)
    refused: int = 0


class Divider:
    """Divides pages. `stopped` and `closed`: the keys and the topics that are stopped already."""

    def __init__(
        self,
        rules: RetryRules,
        draw: random.Random,
        stopped: Container[Place],
        closed: Mapping[str, str],
    ) -> None:
        self._rules = rules
        self._draw = draw
        self._stopped = stopped
        self._closed = closed

    def divide(self, records: Iterable[Record], reasons: Mapping[int, str]) -> Division:
        """Divide a page; `reasons`: why messages of it are refused, by their indexes.

        Whatever comes after a message of its key that is held is held as well. What has expired is
        never sent, and nothing waits for it.
        """
        found = Division()
        for index, record in enumerate(records):
            topic, key = record[2], record[3]
            place = None if key is None else (topic, key)
            if record[10]:
                found.holds.append(expired(record[0]))
            elif place is not None and (place in found.stopped or place in self._stopped):
                found.holds.append(Hold(record[0], "blocked", blocks=True))
            elif topic in self._closed:
                self._hold(found, waiting(record[0], place, self._closed[topic]), place)
            elif index in reasons:
                found.refused += 1
                self._hold(found, self._refused(record, reasons[index]), place)
            else:
                found.sent.append(record)
        return found

    def _refused(self, record: Record, reason: str) -> Hold:
        blocks = record[3] is not None
        return after_refusal(record, 0, 0.0, blocks, reason, self._rules, self._draw)

    @staticmethod
    def _hold(found: Division, hold: Hold, place: Place | None) -> None:
        found.holds.append(hold)
        if hold.blocks and place is not None:
            found.stopped.add(place)


def cut_of(records: Sequence[Record], division: Division) -> int | None:
    """Return the index of the first message that stops its key behind others of the page.

    Those others must have arrived before it is held: else, after a crash, they would be read again
    while it stops their key, and come after it.
    """
    heads = {hold.seq for hold in division.holds if hold.blocks and hold.state != "blocked"}
    before: set[Place] = set()
    for index, record in enumerate(records):
        if record[3] is not None:
            place = (record[2], record[3])
            if record[0] in heads and place in before:
                return index
            before.add(place)
    return None


def split(page: Page, index: int) -> tuple[Page, Page]:
    """Return the page up to a message, and from it on."""
    end = Position(page.batch, page.records[index - 1][0])
    mark = Mark.parse(page.mark)
    first = replace(
        page,
        records=page.records[:index],
        end=end,
        mark="" if mark is None else mark._replace(seq=end.seq).text,
    )
    return first, replace(page, records=page.records[index:])


def joined(first: Page, rest: Page) -> Page:
    """Return two parts of a page that follow each other as one."""
    return replace(rest, records=[*first.records, *rest.records])


def expired(seq: int, attempts: int = 0) -> Hold:
    """Return what becomes of a message whose time was over before its turn came."""
    reason = "its time was over (expires_at) before it could be sent"
    return Hold(seq, "expired", blocks=False, attempts=attempts, fault="expired", error=reason)


def deadly(record: Record, blocks: bool, attempts: int, deaths: int, rules: RetryRules) -> Hold:
    """Return what becomes of a message that kills relays: only an operator has it tried again."""
    seq, identity, topic, *_ = record
    reason = (
        f"message {identity} killed the relay {deaths} times: each time the process died while "
        "this message, and no other, was being handed over"
    )
    blocks = blocks and rules.of(topic).after_failure == "block"
    return Hold(seq, "dead", blocks, attempts + deaths, fault="crash", error=reason)


def waiting(seq: int, place: Place | None, reason: str, attempts: int = 0) -> Hold:
    """Return what becomes of a message whose topic cannot be written to: no attempt is counted."""
    return Hold(seq, "retrying", place is not None, attempts=attempts, fault="topic", error=reason)


def after_refusal(
    record: Record,
    attempts: int,
    age_s: float,
    blocks: bool,
    reason: str,
    rules: RetryRules,
    draw: random.Random,
) -> Hold:
    """Return what becomes of a message that is to blame itself, after one more attempt."""
    seq, _, topic, *_ = record
    policy = rules.of(topic)
    blocks = blocks and policy.after_failure == "block"
    count = attempts + 1
    if policy.is_over(count, age_s):
        return Hold(seq, "dead", blocks, count, None, "message", reason)
    delay_s = policy.delay_s(count, draw)
    return Hold(seq, "retrying", blocks, count, delay_s, "message", reason)


def group_of(due: Sequence[HeldRecord], limit: int) -> list[HeldRecord]:
    """Return which due messages to try together: those that never failed, or one that did.

    Of one that failed it must be certain that it, and no other, is to blame if it fails again.
    """
    fresh = [held for held in due if not held.attempts]
    return fresh[:limit] if fresh else list(due[:1])


@dataclass(slots=True)
class Attempt:
    """A group of held messages on its way; implements Delivery.

    Of a key the head comes first, and behind it perhaps messages that it blocked.
    """

    group: list[HeldRecord]
    mark: str = ""
    delivered: list[int] = field(default_factory=list)
    failed: list[Hold] = field(default_factory=list)
    left: list[HeldRecord] = field(default_factory=list)
    _acked: int = 0

    def __post_init__(self) -> None:
        self.left = list(self.group)

    @property
    def records(self) -> list[Record]:
        """Return what is to be sent."""
        return [held.record for held in self.left]

    def acknowledged(self, index: int) -> None:
        """Note an acknowledgement."""
        self._acked += 1
        self.delivered.append(self.left[index].record.seq)

    @property
    def arrived(self) -> list[Record]:
        """Return what is acknowledged."""
        done = set(self.delivered)
        return [held.record for held in self.group if held.record.seq in done]

    @property
    def failures(self) -> Mapping[str, int]:
        """Return how many failed, by what has become of them."""
        return Counter(hold.state for hold in self.failed)

    @property
    def unacknowledged(self) -> list[HeldRecord]:
        """Return what was sent and is not acknowledged."""
        done = set(self.delivered)
        return [held for held in self.left if held.record.seq not in done]

    @property
    def is_complete(self) -> bool:
        """Return whether everything that was sent is acknowledged."""
        return self._acked == len(self.left)

    def drop(self, fates: Mapping[int, Hold]) -> None:
        """Take messages out, by their indexes, with what becomes of them, before anything is sent.

        What comes behind them in their key goes with them; it is blocked as before. Only a head's
        fate is noted: until the head is gone, another message of its key has none.
        """
        heads: set[Place] = set()
        stopped: set[Place] = set()
        left = []
        for index, held in enumerate(self.left):
            place = held.place if held.blocks else None
            if index in fates and place not in heads:
                self.failed.append(fates[index])
            if place is not None:
                heads.add(place)
                if index in fates:
                    stopped.add(place)
            if index not in fates and place not in stopped:
                left.append(held)
        self.left = left


def places_in(records: Iterable[Record]) -> Set[Place]:
    """Return the keys of a page."""
    return {(record[2], record[3]) for record in records if record[3] is not None}
