"""Slots are emptied under adversarial writers and a crashing reader, and nothing is lost."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from outbox.store.base import Slice
from outbox.store.postgresql.rotation import Rotation
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.stress.cursor_stress import CrashingReader, stress, stress_readers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conformance.store_kit import StoreKit

pytestmark = [pytest.mark.postgresql, pytest.mark.slow]

#: Slots that take turns every tenth of a second, and no retention: any slot but the current one
#: may be emptied as soon as it is delivered. What is written is noted elsewhere.
HURRIED = """
    alter table outbox_meta drop constraint outbox_meta_retention_s_check;
    update outbox_meta set retention_s = 0;
    create or replace function outbox_slot() returns smallint language sql volatile as
        $$ select ((extract(epoch from clock_timestamp()) * 10)::bigint % 4)::smallint $$;
    create table truth (key text, number int);
    create function note() returns trigger language plpgsql as $$ begin
        insert into truth values (new.key, convert_from(new.payload, 'UTF8')::int);
        return null; end $$;
    create trigger note after insert on outbox_message for each row execute function note();
"""


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    with psycopg.connect(postgresql_kit.url.conninfo) as connection:
        connection.execute(HURRIED)
    return postgresql_kit


@contextmanager
def pruning(kit: StoreKit) -> Iterator[list[Slice]]:
    """Prune over and over; yield what was removed."""
    stop = threading.Event()
    removed: list[Slice] = []
    failures: list[BaseException] = []
    store = kit.store()

    def prune() -> None:
        try:
            while not stop.wait(0.005):
                removed.extend(part for part in store.prune() if part.kept is None)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=prune)
    thread.start()
    try:
        yield removed
    finally:
        stop.set()
        thread.join()
    assert not failures, failures


def test_nothing_is_lost_while_slots_are_emptied(kit: StoreKit) -> None:
    with pruning(kit) as removed:
        findings = stress(kit, seconds=6, seed=11, crash_rate=0.02, truth="truth")

    assert findings.faults == 0, findings
    assert findings.late > 0, findings
    assert len(removed) > 3


@contextmanager
def names_coming_and_going(kit: StoreKit) -> Iterator[None]:
    """Make relay names, from the earliest message and after the latest, and forget them."""
    stop = threading.Event()
    failures: list[BaseException] = []
    store = kit.store()

    def come_and_go() -> None:
        try:
            while not stop.wait(0.2):  # nothing is removed while the first of them is there
                for start in ("earliest", "latest"):
                    store.create_relay(f"passing-{start}", start)
                for start in ("earliest", "latest"):
                    store.forget_relay(f"passing-{start}")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures, failures


def test_two_names_beside_names_that_come_and_go(kit: StoreKit) -> None:
    """Each has everything, also what the other delivered long before."""
    kit.store().create_relay("slow", "earliest")
    quick = CrashingReader(kit, 13, 0.02)
    slow = CrashingReader(kit, 14, 0.05, page=40, relay="slow")

    with pruning(kit) as removed, pruning(kit) as removed_too, names_coming_and_going(kit):
        findings = stress_readers(kit, [quick, slow], seconds=6, seed=13, truth="truth")

    assert [each.faults for each in findings] == [0, 0], findings
    assert removed + removed_too


def test_a_look_before_the_lock_only_loses_messages(
    kit: StoreKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the run above would have caught it."""

    def empty_at_once(self: Rotation, connection: psycopg.Connection, slot: int) -> Slice:
        connection.execute(f"truncate only {self._partition(slot)}")
        return Slice(f"slot {slot}", 1, 0.0, None)

    monkeypatch.setattr(Rotation, "_empty", empty_at_once)

    with pruning(kit):
        findings = stress(kit, seconds=4, seed=12, truth="truth")

    assert findings.missing > 0, findings
