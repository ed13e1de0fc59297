"""Pure decisions about PostgreSQL's snapshots: what a batch consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A `pg_snapshot`: ids below xmin have ended, ids from xmax on had not, of those in between
    the ones in `running` had not."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read PostgreSQL's own form, `xmin:xmax:id,id,…`."""
        xmin, xmax, running = text.split(":")
        ids = frozenset(map(int, running.split(","))) if running else frozenset()
        return cls(int(xmin), int(xmax), ids)

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"

    def ended_since(self, last: Snapshot) -> list[int]:
        """Return the transactions that ran at `last` and have ended by this one.

        Their messages, if they committed, are the late ones of the batch between the two.
        """
        return sorted(xid for xid in last.running if xid < self.xmax and xid not in self.running)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one batch consists of: everything visible in `target` and not in `last`.

    `floor` is a lower bound of the seq of every fresh message (one whose transaction id is at least
    `last.xmax`). It exists only so that reading need not begin at the oldest retained message.
    `target_floor` is the same bound for the next batch. `next_floor` is the sequence's value that
    was read before this plan's own transaction took an id; a snapshot taken after that transaction
    committed may use it as its bound, so it becomes a floor two plans later. `generation` tells the
    lanes under which its messages are selected. `token` is given when the plan is saved.
    """

    no: int
    last: Snapshot
    floor: int
    target: Snapshot
    target_floor: int
    next_floor: int
    generation: int
    token: str = ""

    def following(self, sequence_value: int, snapshot: Snapshot, generation: int) -> Plan:
        """Return the plan that comes after this one.

        `sequence_value` must have been read before the transaction that saves the plan took an id,
        and the earlier plan must be committed before `snapshot` is taken.
        """
        return Plan(
            no=self.no + 1,
            last=self.target,
            floor=self.target_floor,
            target=snapshot,
            target_floor=self.next_floor,
            next_floor=sequence_value,
            generation=generation,
        )
