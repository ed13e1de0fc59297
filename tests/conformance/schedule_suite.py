"""What every store must do with messages that wait. Subclasses give a `kit`."""

from __future__ import annotations

import threading
from typing import Any

from outbox.store.scheduling import Point, Schedule
from tests.conformance.store_kit import StoreKit, acquire, keys, read_all
from tests.waiting import wait_until

ROWS, BYTES = 1000, 10_000_000


class ScheduleSuite:
    """Subclass it and give it a fixture `kit`."""

    def test_what_is_due_is_moved_in_the_order_of_its_time(self, kit: StoreKit) -> None:
        schedule_rows(kit, ("third", -1.0), ("first", -3.0), ("second", -2.0), ("later", 60.0))

        assert move_all(kit.store().schedule()) == 3

        assert kit.keys_in_log() == ["first", "second", "third"]
        assert waiting(kit) == ["later"]

    def test_at_the_same_time_the_order_is_that_of_writing(self, kit: StoreKit) -> None:
        with kit.transaction() as connection:
            for key in ("a", "b", "c"):
                insert(kit, connection, key, "due_at", now(kit, "0"))
            connection.execute(f"update outbox_scheduled set due_at = {now(kit, '-1')}")

        move_all(kit.store().schedule(), max_rows=2)

        assert kit.keys_in_log() == ["a", "b", "c"]

    def test_every_column_arrives(self, kit: StoreKit) -> None:
        columns = (
            "topic, key, payload, id, type, content_type, headers, traceparent, tracestate, lane,"
            " key_id"
        )
        values = (
            "'t', 'k', 'p', '018f3f1e-0000-7000-8000-000000000001', 'y', 'c', '{\"h\": \"1\"}',"
            " 'tp', 'ts', 'l', 'i'"
        )
        kit.writer().execute(
            f"insert into outbox_scheduled ({columns}, due_at) values ({values}, {now(kit, '-1')})"
        )
        before = kit.writer().execute(f"select {columns} from outbox_scheduled").fetchall()

        move_all(kit.store().schedule())

        assert kit.writer().execute(f"select {columns} from outbox_message").fetchall() == before

    def test_nothing_is_moved_before_its_time_by_the_clock_of_the_database(
        self, kit: StoreKit
    ) -> None:
        # Given messages that are due one after the other, in a moment
        schedule_rows(kit, *((str(i), 0.02 * i) for i in range(10)))
        due = dict(kit.writer().execute(f"select key, {epoch(kit)} from outbox_scheduled"))
        schedule = kit.store().schedule()
        # When they are moved as soon as that is possible
        wait_until(lambda: move_all(schedule) == 0 and not waiting(kit), what="all being moved")
        # Then none has a place in the log that was given to it earlier
        written = dict(
            kit.writer().execute(f"select key, {epoch(kit, 'created_at')} from outbox_message")
        )
        assert [key for key in written if written[key] < due[key] - 0.001] == []
        assert kit.keys_in_log() == [str(i) for i in range(10)]

    def test_what_waits_for_a_condition_is_left_alone(self, kit: StoreKit) -> None:
        with kit.transaction() as connection:
            insert(kit, connection, "waits", "wait_for", "'payment'")
            connection.execute(
                "insert into outbox_scheduled (topic, key, due_at, wait_for)"
                f" values ('t', 'both', {now(kit, '-5')}, 'payment')"
            )
        schedule = kit.store().schedule()

        assert schedule.agenda(None).earliest is None
        assert schedule.move(Point(0, 0), ROWS, BYTES).messages == 0
        assert waiting(kit) == ["waits", "both"]

    def test_what_is_not_committed_is_not_moved(self, kit: StoreKit) -> None:
        writer = kit.writer()
        writer.execute("begin")
        insert(kit, writer, "rolled back", "due_at", now(kit, "-1"))
        if kit.has_snapshots:
            assert move_all(kit.store().schedule()) == 0
        writer.execute("rollback")

        assert move_all(kit.store().schedule()) == 0
        assert kit.keys_in_log() == []

    def test_a_move_is_bounded_by_rows(self, kit: StoreKit) -> None:
        schedule_rows(kit, *((str(i), -10.0 + i) for i in range(5)))
        schedule = kit.store().schedule()

        moved = schedule.move(schedule.agenda(None).earliest, 2, BYTES)
        assert (moved.messages, moved.full) == (2, True)
        moved = schedule.move(moved.end, 4, BYTES)
        assert (moved.messages, moved.full) == (3, False)
        assert kit.keys_in_log() == [str(i) for i in range(5)]

    def test_a_move_is_bounded_by_bytes_and_moves_at_least_one(self, kit: StoreKit) -> None:
        with kit.transaction() as connection:
            for key in "abc":
                payload = (
                    "zeroblob(100000)" if not kit.has_snapshots else "repeat('x', 100000)::bytea"
                )
                connection.execute(
                    "insert into outbox_scheduled (topic, key, payload, due_at)"
                    f" values ('t', '{key}', {payload}, {now(kit, '-1')})"
                )
        schedule = kit.store().schedule()

        moved = schedule.move(schedule.agenda(None).earliest, ROWS, 10)
        assert (moved.messages, moved.full) == (1, True)
        moved = schedule.move(moved.end, ROWS, 150_000)
        assert (moved.messages, moved.full) == (2, False)
        assert kit.keys_in_log() == ["a", "b", "c"]

    def test_the_agenda_says_when_the_next_is_due(self, kit: StoreKit) -> None:
        schedule = kit.store().schedule()
        assert schedule.agenda(None).due_in_s is None

        schedule_rows(kit, ("later", 60.0))
        agenda = schedule.agenda(None)
        assert 55 < agenda.due_in_s <= 60
        assert agenda.clear_to < agenda.earliest

        schedule_rows(kit, ("overdue", -60.0))
        assert schedule.agenda(None).due_in_s <= -60

    def test_a_look_from_a_clear_point_on_finds_what_comes_after_it(self, kit: StoreKit) -> None:
        schedule_rows(kit, ("gone", -10.0))
        schedule = kit.store().schedule()
        move_all(schedule)
        clear = schedule.agenda(None).clear_to

        schedule_rows(kit, ("new", 0.0))

        assert schedule.agenda(clear).earliest is not None
        assert move_all(schedule, clear) == 1

    def test_several_that_move_at_once_move_everything_once(self, kit: StoreKit) -> None:
        # Given many that are due, and four relays
        schedule_rows(kit, *((str(i), -400.0 + i) for i in range(300)))
        threads = [threading.Thread(target=self._move_everything, args=(kit,)) for _ in range(4)]
        # When they all move them, a few at a time
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Then each message is in the log once, and they are in order
        assert kit.keys_in_log() == [str(i) for i in range(300)]
        assert waiting(kit) == []

    def _move_everything(self, kit: StoreKit) -> None:
        store = kit.store()
        schedule = store.schedule()
        wait_until(
            lambda: move_all(schedule, max_rows=7) == 0 and schedule.agenda(None).earliest is None,
            what="an empty schedule",
        )
        store.close()

    def test_a_moved_message_is_read_after_what_was_in_the_log(self, kit: StoreKit) -> None:
        schedule_rows(kit, ("moved", -1.0))
        kit.commit("before")
        store = kit.store()
        reader = store.reader(acquire(store))
        move_all(store.schedule())
        kit.commit("after")

        assert keys(read_all(reader)) == ["before", "moved", "after"]


def schedule_rows(kit: StoreKit, *given: tuple[str, float]) -> None:
    """Commit messages that are due in so many seconds."""
    with kit.transaction() as connection:
        for key, seconds in given:
            insert(kit, connection, key, "due_at", now(kit, str(seconds)))


def insert(kit: StoreKit, connection: Any, key: str, column: str, value: str) -> None:
    """Insert a message as plain SQL would."""
    connection.execute(
        f"insert into {kit.names['outbox_scheduled']} (topic, key, {column})"
        f" values ('t', '{key}', {value})"
    )


def now(kit: StoreKit, seconds: str) -> str:
    """Return the SQL of a time so many seconds from now."""
    if kit.has_snapshots:
        return f"clock_timestamp() + interval '{seconds} seconds'"
    return f"(julianday('now') - 2440587.5) * 86400.0 + {seconds}"


def epoch(kit: StoreKit, column: str = "due_at") -> str:
    """Return the SQL of a time in seconds."""
    return f"extract(epoch from {column})::float8" if kit.has_snapshots else column


def waiting(kit: StoreKit) -> list[str]:
    """Return the keys of what is still scheduled, in the order of writing."""
    found = kit.writer().execute("select key from outbox_scheduled order by no")
    return [key for (key,) in found]


def move_all(schedule: Schedule, start: Point | None = None, max_rows: int = ROWS) -> int:
    """Move until nothing more is due, or another one moves; return how many messages that were."""
    total = 0
    while (agenda := schedule.agenda(start)).earliest and (agenda.due_in_s or 0) <= 0:
        moved = schedule.move(agenda.earliest, max_rows, BYTES)
        if moved is None or not moved.messages:
            break
        total += moved.messages
    return total
