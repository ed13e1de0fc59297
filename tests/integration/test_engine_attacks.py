"""What was once wrong with the engine: each of these was found by attacking it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from outbox.database import DatabaseUrl
from outbox.errors import BrokerUnavailable, DatabaseUnavailable, OutboxError
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.record import Page, Position, Record
from outbox.relay.relay import Pass, Relay
from outbox.relay.settings import RelaySettings
from outbox.store.base import LeaseLost
from outbox.store.owner import is_certainly_dead, new_owner
from outbox.store.postgresql.lanes import read_topologies
from outbox.store.postgresql.undelivered import undelivered
from tests.conformance.conftest import postgresql_kit  # noqa: F401 - the fixture
from tests.conformance.store_kit import LEASE_S, StoreKit, acquire, keys, read_all
from tests.terms import begin_term
from tests.waiting import wait_until

FILL = """
    insert into outbox_message (topic, key, payload)
    select 't', 'k', convert_to(repeat('x', 200), 'UTF8') from generate_series(1, %s)"""


@pytest.fixture(params=[pytest.param("postgresql", marks=pytest.mark.postgresql), "sqlite"])
def any_kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreKit]:
    url = f"sqlite:///{tmp_path}/log.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    kit = StoreKit(DatabaseUrl.parse(url))
    yield kit
    kit.close()


class SlowBroker(MemoryPublisher):
    """Acknowledges after a while, and what is on the way arrives even when nobody listens."""

    _polls = 0

    def publish(self, records: list[Record], *more: Any) -> None:
        if any(record[2] == "missing" for record in records):
            raise BrokerUnavailable("no such topic")
        super().publish(records, *more)

    def poll(self, timeout_s: float) -> None:
        self._polls += 1
        if self._polls > 2:
            super().poll(timeout_s)

    def close(self) -> None:
        self.published.extend(message for message, _, _ in self._waiting)
        super().close()


@pytest.fixture
def kit(postgresql_kit: StoreKit) -> StoreKit:  # noqa: F811
    return postgresql_kit


@pytest.fixture
def waits(kit: StoreKit) -> Callable[[int], None]:
    """Give a function that waits until a backend waits for a lock."""
    watcher = kit.writer()

    def wait(pid: int) -> None:
        wait_until(
            lambda: watcher.execute(
                "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s", (pid,)
            ).fetchone()[0],
            what="the backend to wait for a lock",
        )

    return wait


class TestNamesThatComeAgain:
    def test_a_relay_of_a_forgotten_name_cannot_write_to_its_successors_cursor(
        self, any_kit: StoreKit
    ) -> None:
        # Given a relay that runs while its name is forgotten and made anew
        former, successor = any_kit.store(), any_kit.store()
        old = acquire(former)
        successor.forget_relay("default")
        successor.create_relay("default", "earliest")
        # When another process has taken the new one
        new = acquire(successor)
        # Then the former owner's position is refused
        with pytest.raises(LeaseLost):
            former.save(old, Position(old.position.batch, 10**9), LEASE_S)
        successor.save(new, new.position, LEASE_S)

    def test_a_position_is_never_given_again_under_the_same_name(self, kit: StoreKit) -> None:
        kit.commit("a")
        store = kit.store()
        lease = acquire(store)
        (before,) = read_all(store.reader(lease))
        store.forget_relay("default")
        store.create_relay("default", "earliest")
        kit.commit("b")

        pages = read_all(store.reader(acquire(store)))

        assert all(page.batch > before.batch + 10**9 for page in pages)


def test_a_plan_is_not_built_on_one_that_the_database_has_lost(kit: StoreKit) -> None:
    """Behind a pooler a session outlives its server: a fail-over to one that is behind."""
    kit.commit("a")
    store = kit.store()
    lease = acquire(store)
    reader = store.reader(lease)
    assert keys([reader.read(10, 10_000)]) == ["a"]
    kit.writer().execute("delete from outbox_plan where plan_no = 1")
    kit.commit("b")

    with pytest.raises(LeaseLost):
        reader.read(10, 10_000)

    # And who begins again, from what is saved, delivers all of it
    store.release(lease, lease.position)
    assert keys(read_all(store.reader(acquire(store)))) == ["a", "b"]


class TestErrorsInTheMiddle:
    def test_a_page_asked_for_ahead_that_fails_leaves_a_session_of_use(
        self, kit: StoreKit, waits: Any
    ) -> None:
        # Given pages of which the third is asked for and has to wait
        kit.commit(*"abcdefghi")
        store = kit.store()
        lease = acquire(store)
        reader = store.reader(lease)
        first = reader.read(3, 10_000)
        store.save(lease, first.end, LEASE_S)
        pid = store.session.connection.info.backend_pid
        locking, cancelling = kit.writer(), kit.writer()
        locking.execute("begin; lock table outbox_message in access exclusive mode")
        second = reader.read(3, 10_000)
        # When the server cancels it while the relay saves
        saving: list[BaseException] = []

        def save() -> None:
            try:
                store.save(lease, second.end, LEASE_S)
            except DatabaseUnavailable as error:
                saving.append(error)

        thread = threading.Thread(target=save)
        thread.start()
        waits(pid)
        cancelling.execute("select pg_cancel_backend(%s)", (pid,))
        thread.join()
        locking.execute("rollback")
        # Then the relay is told, and can still give the lane back
        assert saving
        store.release(lease, second.end)
        assert keys(read_all(store.reader(acquire(store)))) == [*"ghi"]

    def test_a_session_ended_within_a_transaction_is_waited_out(self, kit: StoreKit) -> None:
        kit.commit("a")
        store = kit.store()
        reader = store.reader(acquire(store))
        reader._sql.prepared_look = reader._sql.prepared_look.replace("'5s'", "'10ms'")
        watcher = kit.writer()
        pid = store.session.connection.info.backend_pid

        def commit_too_late() -> None:
            wait_until(
                lambda: (
                    not watcher.execute(
                        "select from pg_stat_activity where pid = %s", (pid,)
                    ).fetchall()
                ),
                what="the server to end the session",
            )
            store.session.connection.execute("commit")

        store.session.commit = commit_too_late

        with pytest.raises(DatabaseUnavailable):
            reader.read(10, 10_000)

    def test_a_relay_frozen_within_a_plan_does_not_keep_its_successor_out(
        self, kit: StoreKit
    ) -> None:
        # Given a relay that is frozen between the saving of a plan and its commit
        kit.commit("a")
        frozen = kit.store()
        reader = frozen.reader(acquire(frozen))

        class Frozen(Exception):
            pass

        def freeze() -> None:
            raise Frozen

        frozen.session.commit = freeze
        frozen.session.rollback = lambda: None
        with pytest.raises(Frozen):
            reader.read(10, 10_000)
        # When its lease has run out, as a look at the row would tell
        successor = kit.store()
        successor._is_free = lambda *_: True
        successor.session.connection.execute("set lock_timeout = '20s'")
        # Then the row can be had (its lease has not, here)
        assert successor.acquire("default", "default", new_owner(), LEASE_S) is None

    def test_closing_a_term_hides_no_error_and_leaves_no_term_behind(self, kit: StoreKit) -> None:
        kit.commit("a")
        store = kit.store()

        def refuse(*_: object) -> None:
            raise OutboxError("refused")

        published: list[PublishedMessage] = []
        publishers = iter([MemoryPublisher(published, fail_at=0), MemoryPublisher(published)])
        with Relay(store, lambda: next(publishers)) as relay:
            release, store.release = store.release, refuse
            with pytest.raises(OutboxError, match="failed on demand"):
                relay.run_once()
            store.release = release
            assert relay.run_once() == Pass(read=1, delivered=1)


class TestPace:
    def test_a_page_larger_than_what_may_be_in_flight_is_sent_all_the_same(
        self, any_kit: StoreKit
    ) -> None:
        any_kit.commit(*"abc")
        settings = RelaySettings(page_messages=20_000, in_flight_messages=10_000)

        with Relay(any_kit.store(), MemoryPublisher, settings) as relay:
            assert relay.run_once() == Pass(read=3, delivered=3)

    def test_a_page_that_took_longer_than_the_lease_to_find_is_sent(
        self, any_kit: StoreKit
    ) -> None:
        any_kit.commit("a")
        now = [1000.0]
        store = any_kit.store()
        reader_of = store.reader

        class SlowReader:
            lanes_changed = False
            nothing_at = None

            def __init__(self, reader: Any) -> None:
                self._reader = reader
                self.receive = reader.receive

            def read(self, *bounds: int) -> Page | None:
                now[0] += LEASE_S
                page: Page | None = self._reader.read(*bounds)
                return page

        store.reader = lambda lease: SlowReader(reader_of(lease))
        with Relay(store, MemoryPublisher, clock=lambda: now[0]) as relay:
            term = begin_term(relay)
            assert term.step(0).delivered == 1

    def test_a_page_that_is_refused_does_not_have_those_before_it_sent_again_and_again(
        self, any_kit: StoreKit
    ) -> None:
        # Given a message for a topic that does not exist, behind others
        with any_kit.transaction() as connection:
            any_kit.write(connection, *"abcdef")
            any_kit.write(connection, "x", topic="missing")
        published: list[PublishedMessage] = []
        # When the relay tries again and again, with a broker that takes its time
        settings = RelaySettings(page_messages=6)
        with Relay(any_kit.store(), lambda: SlowBroker(published), settings) as relay:
            for _ in range(3):
                with pytest.raises(BrokerUnavailable, match="no such topic"):
                    relay.run_once()
        # Then the others arrived once
        assert [message.key for message in published] == [*"abcdef"]

    @pytest.mark.parametrize("running", [False, True])
    def test_what_is_delivered_is_found_out_without_reading_the_log(
        self, kit: StoreKit, running: bool
    ) -> None:
        # Given a large log that is delivered
        writer, open_one, store = kit.writer(), kit.writer(), kit.store()
        writer.execute(FILL, (50_000,))
        writer.execute("analyze outbox_message")
        if running:
            open_one.execute("begin; select pg_current_xact_id()")
        lease = acquire(store)
        reader = store.reader(lease)
        for _ in range(3):  # floors follow two plans later
            kit.commit("x")
            for page in read_all(reader, max_rows=20_000):
                store.save(lease, page.end, LEASE_S)
        # When the relay is asked, then it looks at next to nothing
        assert store.delivered("default", store.horizon())
        assert store.status("default")[0].lag_messages == 0
        (plan,) = (
            writer.execute(
                "begin; set local enable_seqscan = off; set local enable_bitmapscan = off"
            )
            and writer.execute(
                "explain (analyze, format json) "
                + undelivered(kit.names, 1, read_topologies(writer, kit.names), "default"),
                {"relay": "default", "lane": "default", "horizon": None},
            ).fetchone()
        )
        writer.execute("rollback")
        assert sum(_looked_at(plan[0]["Plan"])) < 1000


def _looked_at(node: dict[str, Any]) -> Iterator[int]:
    if str(node.get("Relation Name", "")).startswith("outbox_message"):
        rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        yield int(rows * node["Actual Loops"])
    for child in node.get("Plans", ()):
        yield from _looked_at(child)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
class TestOwners:
    @pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
    def test_a_process_that_proc_hides_from_us_is_not_dead(
        self, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
    ) -> None:
        """As with `mount -o hidepid=invisible`, or systemd's ProtectProc."""
        me = new_owner()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            them = me.replace(f"pid={os.getpid()}", f"pid={other.pid}")
            hidden = f"/proc/{other.pid}/"

            def read(path: Path, *arguments: Any, **more: Any) -> Any:
                if str(path).startswith(hidden):
                    raise error(str(path))
                return read_text(path, *arguments, **more)

            read_text = Path.read_text
            monkeypatch.setattr(Path, "read_text", read)
            monkeypatch.setattr(Path, "read_bytes", read)

            assert not is_certainly_dead(them)
            other.communicate(b"\n")
            assert is_certainly_dead(them)

    def test_a_relay_made_before_a_fork_is_of_the_process_that_runs_it(
        self, any_kit: StoreKit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in servers that load the application once and fork their workers."""
        relay = Relay(any_kit.store(), MemoryPublisher)
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", os.getppid)
            relay.run_once()

        (status,) = any_kit.store().status("default")
        assert f" pid={os.getppid()} " in str(status.owner)
        relay.close()

    def test_nothing_is_known_of_a_process_on_a_machine_of_another_name(self) -> None:
        gone = new_owner().replace(f"pid={os.getpid()}", f"pid={2**22 + 1}")
        assert is_certainly_dead(gone)
        assert not is_certainly_dead(gone.replace(socket.gethostname(), "a-clone", 1))


def test_a_server_that_vanished_is_noticed_also_with_a_statement_on_the_way(
    kit: StoreKit,
) -> None:
    if not hasattr(socket, "TCP_USER_TIMEOUT"):
        pytest.skip("only Linux can bound this")
    connection: psycopg.Connection = kit.writer()

    with socket.socket(fileno=os.dup(connection.fileno())) as raw:
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000
