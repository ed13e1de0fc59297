"""What every store must do with messages that cannot be sent. Subclasses give a `kit`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

from outbox.errors import LogInconsistent
from outbox.record import Position, Record
from outbox.store.base import Lease, LeaseLost
from outbox.store.held import Action, HeldFilter, HeldRecord, HeldStore, Hold
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, read_all

MANY, MUCH = 1_000, 10_000_000


@dataclass
class Scene:
    """A lane that is held, and the messages of its log."""

    kit: StoreKit
    store: Any
    lease: Lease
    held: HeldStore
    records: list[Record]
    end: Position

    def hold(self, *holds: Hold) -> None:
        self.held.hold(self.lease, self.lease.position, LEASE_S, holds)

    def settle(self, *delivered: int, failed: tuple[Hold, ...] = ()) -> set[tuple[str, str]]:
        return self.held.settle(self.lease, self.lease.position, LEASE_S, delivered, failed)

    def seq(self, number: int) -> int:
        return self.records[number].seq

    def failed(self, number: int, **given: Any) -> Hold:
        """Return a message that failed for the first time, to be tried again at once."""
        known = {"attempts": 1, "delay_s": 0.0, "fault": "message", "error": "too large"}
        return Hold(self.seq(number), "retrying", blocks=True, **{**known, **given})

    def blocked(self, number: int) -> Hold:
        return Hold(self.seq(number), "blocked", blocks=True)

    def due(self) -> list[str | None]:
        return [held.record.key for held in self.held.due(self.lease, MANY, MUCH)]

    def due_seqs(self) -> list[int]:
        return [held.record.seq for held in self.held.due(self.lease, MANY, MUCH)]

    def column(self, name: str) -> list[Any]:
        rows = self.kit.writer().execute(f"select {name} from outbox_held order by seq")
        return [value for (value,) in rows]


def scene(kit: StoreKit, *keys: str) -> Scene:
    """Write messages of these keys, and take the lane."""
    kit.commit(*keys)
    store = kit.store()
    lease = acquire(store)
    pages = read_all(store.reader(lease))
    records = [Record(*record) for page in pages for record in page.records]
    return Scene(kit, store, lease, store.held(), records, pages[-1].end)


class HeldSuite:
    """Subclass it and give it a fixture `kit`."""

    # Holding

    def test_a_held_message_is_a_copy_of_the_whole_message(self, kit: StoreKit) -> None:
        mark = "?" if kit.url.dialect == "sqlite" else "%s"
        with kit.transaction() as connection:
            connection.execute(
                "insert into outbox_message (topic, key, payload, id, type, content_type, headers,"
                f" traceparent, tracestate) values ({', '.join([mark] * 9)})",
                (
                    "orders",
                    "k",
                    b"\x00\xff",
                    "018f3f1e-0000-7000-8000-000000000001",
                    "order.placed",
                    "text/plain",
                    '[["a", "1"], ["a", "2"]]',
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                    "vendor=1",
                ),
            )
        at = scene(kit, "other")

        at.hold(at.failed(0))

        (found,) = at.held.due(at.lease, MANY, MUCH)
        assert found.record[:10] == at.records[0][:10]
        assert (found.attempts, found.blocks, found.place) == (1, True, ("orders", "k"))
        assert 0 <= found.age_s < 60
        assert at.column("error") == ["too large"]

    def test_holding_moves_the_cursor_in_the_same_transaction(self, kit: StoreKit) -> None:
        at = scene(kit, "a")
        at.held.hold(at.lease, at.end, LEASE_S, [at.failed(0)])
        at.store.release(at.lease, at.end)
        # Then the next owner begins behind the message
        again = acquire(at.store)
        assert again.position == at.end
        assert read_all(at.store.reader(again)) == []

    def test_who_has_lost_the_lane_holds_nothing(self, kit: StoreKit) -> None:
        at = scene(kit, "a")
        at.store.release(at.lease, at.lease.position)
        acquire(kit.store())
        for change in (lambda: at.hold(at.failed(0)), lambda: at.settle(1)):
            with pytest.raises(LeaseLost):
                change()
        assert at.column("seq") == []

    def test_holding_twice_changes_nothing(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a")
        at.hold(at.failed(0), at.blocked(1))
        at.settle(failed=(at.failed(0, attempts=5, delay_s=60.0),))
        at.hold(at.failed(0), at.blocked(1))
        assert at.column("attempts") == [5, 0]
        assert at.due() == []

    def test_another_message_with_a_held_number_is_not_taken_for_it(self, kit: StoreKit) -> None:
        at = scene(kit, "a")
        at.hold(at.failed(0))
        kit.writer().execute("update outbox_held set id = '018f3f1e-0000-7000-8000-000000000009'")
        with pytest.raises(LogInconsistent, match="number of another message"):
            at.hold(at.failed(0))

    # What stops

    def test_a_key_is_stopped_by_its_head_and_no_other_key_is(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a", "b")
        at.hold(at.failed(0), at.blocked(1))
        assert at.held.stopped_keys(at.lease, MANY) == {("t", "a")}
        assert at.held.stopped_among(at.lease, [("t", "a"), ("t", "b"), ("u", "a")]) == {("t", "a")}

    def test_too_many_keys_are_not_told(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "b", "c")
        at.hold(*map(at.failed, range(3)))
        assert at.held.stopped_keys(at.lease, 2) is None
        assert at.held.stopped_keys(at.lease, 3) == {("t", "a"), ("t", "b"), ("t", "c")}

    def test_the_dead_stop_their_key_and_are_never_due(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a")
        at.hold(Hold(at.seq(0), "dead", blocks=True, attempts=10), at.blocked(1))
        assert at.held.stopped_keys(at.lease, MANY) == {("t", "a")}
        assert at.due() == []

    def test_what_does_not_block_lets_its_key_go(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a")
        at.hold(
            Hold(at.seq(0), "retrying", blocks=False, attempts=1, delay_s=0.0),
            Hold(at.seq(1), "retrying", blocks=False, attempts=1, delay_s=0.0),
        )
        assert at.held.stopped_keys(at.lease, MANY) == set()
        assert at.due() == ["a", "a"]

    # Trying again

    def test_nothing_is_due_before_its_time(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "b")
        assert at.held.outlook(at.lease).anything is False
        at.hold(at.failed(0, delay_s=50.0), at.failed(1, delay_s=100.0))
        assert at.due() == []
        outlook = at.held.outlook(at.lease)
        assert outlook.anything
        assert outlook.next_due_s == pytest.approx(50, abs=20)

    def test_the_next_of_a_key_comes_when_its_head_is_delivered(self, kit: StoreKit) -> None:
        # Given four messages of a key, of which the last two came in a later hold
        at = scene(kit, "a", "a", "a", "a")
        at.hold(at.failed(0), at.blocked(1))
        at.hold(at.blocked(2), at.blocked(3))
        # When each is delivered, then the next is due, and in the end the key is free
        for number in range(3):
            assert at.due_seqs() == [at.seq(number)]
            assert at.settle(at.seq(number)) == set()
        assert at.settle(at.seq(3)) == {("t", "a")}
        assert at.held.stopped_keys(at.lease, MANY) == set()

    def test_what_was_read_late_takes_its_place_behind_the_head(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a", "a")
        at.hold(at.failed(1), at.blocked(2))
        at.hold(at.blocked(0))
        for number in (1, 0, 2):
            assert at.due_seqs() == [at.seq(number)]
            at.settle(at.seq(number))

    def test_a_message_blocked_behind_a_key_that_was_freed_meanwhile_is_due(
        self, kit: StoreKit
    ) -> None:
        # Given a relay that does not know yet that an operator has freed the key
        at = scene(kit, "a", "a")
        at.hold(at.failed(0))
        kit.writer().execute("delete from outbox_held")
        # When it holds the next message of the key as blocked, then that one is the head
        at.hold(at.blocked(1))
        assert at.due_seqs() == [at.seq(1)]

    def test_a_failure_is_counted_and_the_key_stays_stopped(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a")
        at.hold(at.failed(0), at.blocked(1))
        again = at.failed(0, attempts=2, delay_s=100.0, error="still too large")
        assert at.settle(failed=(again,)) == set()
        assert at.due() == []
        assert at.column("attempts") == [2, 0]
        assert at.column("error") == ["still too large", None]

    def test_the_end_of_a_key_that_is_skipped_lets_the_next_come(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a")
        at.hold(at.failed(0), at.blocked(1))
        at.settle(failed=(Hold(at.seq(0), "dead", blocks=False, attempts=3),))
        assert at.due_seqs() == [at.seq(1)]

    def test_what_is_due_is_bounded_by_number_and_by_weight(self, kit: StoreKit) -> None:
        kit.commit("a", "b", "c", payload=b"x" * 10_000)
        at = scene(kit, "d")
        at.hold(*[at.failed(number, delay_s=-9.0 + number) for number in range(4)])
        assert [one.record.key for one in at.held.due(at.lease, 2, MUCH)] == ["a", "b"]
        assert [one.record.key for one in at.held.due(at.lease, MANY, 1)] == ["a"]
        assert [one.record.key for one in at.held.due(at.lease, MANY, 10_500)] == ["a", "b"]

    def test_what_is_behind_a_head_is_told_in_order(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "b", "a", "a")
        at.hold(at.failed(0), at.blocked(2), at.blocked(3))
        behind: list[HeldRecord] = at.held.behind(at.lease, ("t", "a"), 5, MUCH)
        assert [one.record.seq for one in behind] == [at.seq(2), at.seq(3)]
        assert len(at.held.behind(at.lease, ("t", "a"), 1, MUCH)) == 1

    # Topics

    def test_what_waits_for_its_topic_is_not_due_until_it_is_woken(self, kit: StoreKit) -> None:
        with kit.transaction() as connection:
            for topic in ("u", "s", "u"):
                kit.write(connection, "k", topic=topic)
        at = scene(kit, "a")
        waiting = {"attempts": 0, "delay_s": None, "fault": "topic", "error": "unknown"}
        at.hold(at.failed(0, **waiting), at.failed(1, **waiting), at.blocked(2))
        assert at.due() == []
        assert at.held.waiting_topics(at.lease) == ["s", "u"]
        first = at.held.first_waiting(at.lease, "u")
        assert first is not None
        assert first.record.seq == at.seq(0)
        # When one topic is there, then its messages are due, and the other is waited for
        assert at.held.wake(at.lease, "u", MANY) == 1
        assert at.due_seqs() == [at.seq(0)]
        assert at.held.waiting_topics(at.lease) == ["s"]
        assert at.held.first_waiting(at.lease, "u") is None

    def test_many_are_woken_a_few_at_a_time(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "b", "c")
        at.hold(*[at.failed(number, delay_s=None, fault="topic") for number in range(3)])
        woken = [at.held.wake(at.lease, "t", 2) for _ in range(3)]
        assert woken == [2, 1, 0]

    # Mending

    def test_a_key_whose_head_was_deleted_by_hand_gets_another(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a", "b", "b", "c")
        at.hold(at.failed(0), at.blocked(1), at.failed(2), at.blocked(3), at.failed(4))
        kit.writer().execute(f"delete from outbox_held where seq = {at.seq(0)}")
        # One key at a time, for there may be many
        assert at.held.mend(at.lease, None, 1) == ("t", "a")
        assert at.held.mend(at.lease, ("t", "a"), 1) == ("t", "b")
        assert at.held.mend(at.lease, ("t", "b"), 1) is None
        assert sorted(at.due_seqs()) == [at.seq(1), at.seq(2), at.seq(4)]

    # Whose they are

    def test_relay_names_know_nothing_of_each_other(self, kit: StoreKit) -> None:
        at = scene(kit, "a")
        at.store.create_relay("second", "earliest")
        at.hold(at.failed(0))
        second = acquire(at.store, "second")
        assert at.held.stopped_keys(second, MANY) == set()
        assert at.held.due(second, MANY, MUCH) == []
        assert at.held.outlook(second).anything is False
        # and a name that is forgotten takes what it held with it
        at.store.forget_relay("default")
        assert at.column("seq") == []

    # Operators

    def test_states_are_counted_and_found_by_every_filter(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a", "b", "c")
        dead = Hold(at.seq(2), "dead", blocks=True, attempts=9, fault="message", error="too large")
        at.hold(at.failed(0), at.blocked(1), dead)
        admin = kit.store().held_admin()
        assert admin.counts("default") == {"retrying": 1, "blocked": 1, "dead": 1, "expired": 0}
        assert admin.counts("other")["dead"] == 0
        (found,) = admin.find(HeldFilter("default", ("dead",)), MANY)
        assert (found.seq, found.key, found.attempts, found.error) == (
            at.seq(2),
            "b",
            9,
            "too large",
        )
        assert [m.seq for m in admin.find(HeldFilter("default", key="a"), MANY)] == [
            at.seq(0),
            at.seq(1),
        ]
        assert [m.seq for m in admin.find(HeldFilter("default"), 1, at.seq(0))] == [at.seq(1)]
        assert admin.find(HeldFilter("default", topic="u"), MANY) == []
        assert [m.seq for m in admin.find(HeldFilter("default", id=found.id), MANY)] == [found.seq]
        assert admin.count(HeldFilter("default"), 2) == 2
        content = admin.content("default", at.seq(2))
        assert content is not None
        assert content[1:9] == at.records[2][1:9]

    def test_what_is_requeued_is_due_as_if_it_had_never_failed(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a", "b")
        at.hold(
            Hold(at.seq(0), "dead", blocks=True, attempts=9),
            at.blocked(1),
            at.failed(2, delay_s=9000.0),
        )
        admin = kit.store().held_admin()
        assert admin.requeue(HeldFilter("default"), MANY, ACTION) == (2, None)
        assert sorted(at.due_seqs()) == [at.seq(0), at.seq(2)]
        assert at.column("attempts") == [0, 0, 0]
        assert at.column("state") == ["retrying", "blocked", "retrying"]

    def test_discarding_a_head_lets_the_next_come(self, kit: StoreKit) -> None:
        at = scene(kit, "a", "a", "a")
        at.hold(at.failed(0, delay_s=9000.0), at.blocked(1), at.blocked(2))
        admin = kit.store().held_admin()
        assert admin.discard(HeldFilter("default", ("retrying",)), MANY, ACTION) == (1, None)
        assert at.due_seqs() == [at.seq(1)]
        assert at.held.stopped_keys(at.lease, MANY) == {("t", "a")}

    def test_in_batches_the_head_goes_last_so_that_nothing_is_sent_meanwhile(
        self, kit: StoreKit
    ) -> None:
        at = scene(kit, *"aaaaa")
        at.hold(at.failed(0, delay_s=9000.0), *[at.blocked(number) for number in range(1, 5)])
        admin = kit.store().held_admin()
        counts, mark = [], None
        while True:
            count, mark = admin.discard(HeldFilter("default"), 2, ACTION, mark)
            counts.append(count)
            assert at.due() == []
            if mark is None:
                break
        assert counts == [2, 2, 1]
        assert at.column("seq") == []
        # and the audit tells of it as one action
        (action,) = admin.audit(MANY)
        assert (action.actor, action.command, action.messages) == ("ada", "held discard", 5)
        assert action.what == {"topic": "t"}
        assert action.at == pytest.approx(time.time(), abs=60)

    def test_nothing_done_is_nothing_noted(self, kit: StoreKit) -> None:
        scene(kit, "a")
        admin = kit.store().held_admin()
        assert admin.requeue(HeldFilter("default"), MANY, ACTION) == (0, None)
        assert admin.discard(HeldFilter("default"), MANY, ACTION) == (0, None)
        assert admin.audit(MANY) == []


ACTION = Action(
    "018f3f1e-0000-7000-8000-00000000000a", "ada", "host pid=1", "held discard", {"topic": "t"}
)
