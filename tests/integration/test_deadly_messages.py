"""A message that kills the relay is found and held; what else kills relays blames no message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from outbox.config.retry_rules import RetryPolicy, RetryRules
from outbox.database import DatabaseUrl
from outbox.errors import BrokerUnavailable, MessageRefused
from outbox.publishers.base import DeliveryFailed, PageRefused
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.record import Record
from outbox.relay.relay import Relay
from outbox.relay.settings import RelaySettings
from outbox.store.held import Action, HeldFilter
from outbox.store.lanes import Lane
from outbox.store.trail import CAREFUL_AFTER, PROVEN_AFTER
from tests.conformance.store_kit import StoreKit
from tests.terms import begin_term, die
from tests.waiting import wait_until

#: One more dies to tell about where the message is.
ENOUGH = CAREFUL_AFTER + 1 + PROVEN_AFTER


class Killed(BaseException):
    """The process is no more."""


@dataclass
class World:
    """A log, a broker, and relays that some payloads kill, one after the other."""

    kit: StoreKit
    deadly: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)
    #: How many messages are sent before the relay is killed from outside; None: it is not.
    killed_after: int | None = None
    away: bool = False
    published: list[PublishedMessage] = field(default_factory=list)
    policy: RetryPolicy | None = field(default_factory=RetryPolicy)
    on_death: type[BaseException] = Killed

    def relay(self) -> Relay:
        retry = None if self.policy is None else RetryRules(self.policy)
        return Relay(self.kit.store(), lambda: Mortal(self), RelaySettings(retry=retry))

    def live(self) -> bool:
        """Let a relay do one pass; return whether it survives."""
        relay = self.relay()
        try:
            relay.run_once()
        except Killed:
            die(relay)
            self.bury()
            return False
        except MemoryError:
            relay.close()
            self.bury()
            return False
        relay.close()
        return True

    def deaths(self, at_most: int = 30) -> int:
        """Let relays die until one does not; return how many did."""
        for count in range(at_most):
            if self.live():
                return count
        raise AssertionError(f"{at_most} relays have died")

    def bury(self) -> None:
        """Let the leases of who has died run out, and nobody wait for it."""
        earlier, written = "0", ""
        if self.kit.has_snapshots:
            earlier, written = "now() - interval '1 s'", ", written_by = pg_current_xact_id()"
        connection = self.kit.writer()
        connection.execute(f"update outbox_cursor set lease_until = {earlier}{written}")
        connection.execute("delete from outbox_process")

    def write(self, *messages: str) -> None:
        """Write messages such as "a1": of key a, with the payload a1. Those of key - have none."""
        mark = "%s" if self.kit.has_snapshots else "?"
        with self.kit.transaction() as connection:
            for message in messages:
                connection.execute(
                    "insert into outbox_message (topic, key, payload) "
                    f"values ('t', {mark}, {mark})",
                    (None if message[0] == "-" else message[0], message.encode()),
                )

    def first_occurrences(self) -> list[str]:
        """Return what was published, each message once."""
        return list(dict.fromkeys((message.payload or b"").decode() for message in self.published))

    def held(self) -> dict[str, str]:
        rows = self.kit.writer().execute("select payload, state from outbox_held order by seq")
        return {bytes(payload).decode(): state for payload, state in rows}

    def held_column(self, name: str, payload: str) -> Any:
        mark = "%s" if self.kit.has_snapshots else "?"
        rows = self.kit.writer().execute(
            f"select {name} from outbox_held where payload = {mark}", (payload.encode(),)
        )
        ((value,),) = rows.fetchall()
        return value

    def requeue(self) -> None:
        admin = self.kit.store().held_admin()
        what = Action("018f3f1e-0000-7000-8000-000000000001", "me", "here", "held requeue", {})
        admin.requeue(HeldFilter("default", ("dead", "expired", "retrying")), 100, what)


class Mortal(MemoryPublisher):
    """Dies of some messages when it is to send them."""

    def __init__(self, world: World) -> None:
        super().__init__(world.published)
        self._world = world

    def publish(
        self,
        records: list[Record],
        position_prefix: str,
        delivery: Any,
        check: Callable[[], None],
    ) -> None:
        world = self._world
        if world.away:
            raise DeliveryFailed("the broker is away")
        if {record[4] for record in records} & world.deadly:
            raise world.on_death
        refused = [index for index, record in enumerate(records) if record[4] in world.refused]
        if refused:
            raise PageRefused(dict.fromkeys(refused, "too large"))
        super().publish(records, position_prefix, delivery, check)

    def poll(self, timeout_s: float) -> None:
        world = self._world
        if world.killed_after is not None:
            if world.killed_after < len(self._waiting):
                raise Killed
            world.killed_after -= len(self._waiting)
        super().poll(timeout_s)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setattr("outbox.relay.caution._REST_S", (0.001, 0.01))
    url = f"sqlite:///{tmp_path}/log.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    kit = StoreKit(DatabaseUrl.parse(url))
    yield World(kit)
    kit.close()


class TestAMessageThatKillsTheRelay:
    def test_is_held_and_only_its_key_stops(self, world: World) -> None:
        # Given a message among others that no relay survives
        world.deadly = {b"a2"}
        world.write("a1", "b1", "a2", "b2", "a3", "-1", "b3")
        # When relays come to it, one after the other
        assert world.deaths() == ENOUGH
        # Then all but it, and what comes after it in its key, are there in order
        assert world.first_occurrences() == ["a1", "b1", "b2", "-1", "b3"]
        assert world.held() == {"a2": "dead", "a3": "blocked"}
        assert f"killed the relay {PROVEN_AFTER} times" in world.held_column("error", "a2")
        assert world.held_column("fault", "a2") == "crash"
        # and later messages of the key wait as well, while others go
        world.write("a4", "b4")
        assert world.deaths() == 0
        assert world.first_occurrences()[-1] == "b4"
        assert world.held() == {"a2": "dead", "a3": "blocked", "a4": "blocked"}

    def test_lets_its_key_go_on_where_the_policy_says_so(self, world: World) -> None:
        world.policy = RetryPolicy(after_failure="skip")
        world.deadly = {b"a2"}
        world.write("a1", "a2", "a3")
        world.deaths()
        assert world.first_occurrences() == ["a1", "a3"]
        assert world.held() == {"a2": "dead"}

    def test_is_held_also_without_a_key(self, world: World) -> None:
        world.deadly = {b"-2"}
        world.write("-1", "-2", "-3")
        world.deaths()
        assert world.first_occurrences() == ["-1", "-3"]
        assert world.held() == {"-2": "dead"}

    def test_does_not_hide_another_one(self, world: World) -> None:
        world.deadly = {b"a1", b"b1"}
        world.write("a1", "b1", "c1", "a2", "b2", "c2")
        world.deaths()
        assert world.first_occurrences() == ["c1", "c2"]
        assert world.held() == {"a1": "dead", "b1": "dead", "a2": "blocked", "b2": "blocked"}

    def test_is_found_among_what_is_tried_again(self, world: World) -> None:
        # Given a message that was refused, and kills relays when it is tried again
        world.policy = RetryPolicy(delay="fixed", first_s=0.001)
        world.refused = {b"a1"}
        world.write("a1", "a2", "b1")
        world.live()
        assert world.held()["a1"] == "retrying"
        world.refused, world.deadly = set(), {b"a1"}
        # Then it is held, and goes on stopping its key
        world.deaths()
        assert world.held() == {"a1": "dead", "a2": "blocked"}
        assert world.first_occurrences() == ["b1"]

    def test_goes_when_it_is_mended_and_is_found_again_when_it_is_not(self, world: World) -> None:
        world.deadly = {b"a1"}
        world.write("a1", "a2")
        world.deaths()
        # When it is requeued as it is
        world.requeue()
        assert 0 < world.deaths() <= ENOUGH
        assert world.held() == {"a1": "dead", "a2": "blocked"}
        # When it is requeued after the encoder was mended
        world.deadly = set()
        world.requeue()
        wait_until(lambda: world.live() and not world.held(), what="the delivery of what was held")
        assert world.first_occurrences() == ["a1", "a2"]

    def test_ends_the_relay_where_nothing_is_ever_held(self, world: World) -> None:
        world.policy = None
        world.deadly = {b"a1"}
        world.write("a1", "b1")
        for _ in range(ENOUGH):
            assert not world.live()
        with pytest.raises(MessageRefused, match="killed the relay"):
            world.live()
        assert world.published == []

    def test_is_found_when_it_takes_more_memory_than_there_is(self, world: World) -> None:
        # Given a message of which Python itself runs out of memory, so that the relay ends by
        # closing everything
        world.on_death = MemoryError
        world.deadly = {b"a1"}
        world.write("a1", "b1")
        assert world.deaths() == ENOUGH
        assert world.first_occurrences() == ["b1"]
        assert world.held() == {"a1": "dead"}

    def test_is_found_in_its_shard_and_the_others_go_on(self, world: World) -> None:
        if not world.kit.has_snapshots:
            pytest.skip("no shards on SQLite")
        world.kit.store().change_lanes([Lane("default", shards=4)])
        keys = "abcdefgh"
        world.deadly = {b"a2"}
        world.write(*(f"{key}{number}" for number in (1, 2, 3) for key in keys))
        world.deaths()
        assert world.held() == {"a2": "dead", "a3": "blocked"}
        for key in keys[1:]:
            of_key = [each for each in world.first_occurrences() if each[0] == key]
            assert of_key == [f"{key}1", f"{key}2", f"{key}3"]


class TestNoMessageIsBlamed:
    def test_for_relays_that_are_killed_somewhere_else_each_time(self, world: World) -> None:
        # Given relays that are killed from outside, each some messages further on
        world.write(*(f"a{number}" for number in range(20)))
        for sent in (0, 0, 0, 0, 1, 0, 2, 1, 0, 3):
            world.killed_after = sent
            assert not world.live()
        world.killed_after = None
        # Then what is left goes, in order, and nothing is held
        assert world.live()
        assert world.first_occurrences() == [f"a{number}" for number in range(20)]
        assert world.held() == {}

    def test_for_relays_that_die_before_they_send_anything(self, world: World) -> None:
        # Given relays of which some died with the same message on its way, but one did without
        world.write("a1", "a2")
        for _ in range(3):
            self._die_at_once(world, CAREFUL_AFTER)
            for _ in range(PROVEN_AFTER - 1):
                world.killed_after = 0
                assert not world.live()
        self._die_at_once(world, 1)
        world.killed_after = None
        assert world.live()
        assert world.first_occurrences() == ["a1", "a2"]
        assert world.held() == {}

    def test_for_ends_in_order_and_a_broker_that_is_away(self, world: World) -> None:
        # Given relays that died, and after them some that were ended while Kafka was away
        world.write("a1", "a2")
        self._die_at_once(world, CAREFUL_AFTER)
        world.away = True
        for _ in range(2 * PROVEN_AFTER):
            relay = world.relay()
            with pytest.raises(BrokerUnavailable):
                relay.run_once()
            relay.close()
        # Then nothing is held, and all goes when Kafka is back
        world.away = False
        assert world.live()
        assert world.first_occurrences() == ["a1", "a2"]
        assert world.held() == {}

    @staticmethod
    def _die_at_once(world: World, times: int) -> None:
        for _ in range(times):
            relay = world.relay()
            begin_term(relay)
            die(relay)
            world.bury()


class TestItCostsNothing:
    def test_a_relay_that_nobody_died_before_notes_nothing(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.write(*(f"a{number}" for number in range(10)))
        store = world.kit.store()
        for name in ("suspect", "forgive", "acquit"):
            monkeypatch.delattr(type(store), name)
        with Relay(store, lambda: Mortal(world)) as relay:
            assert relay.run_once().delivered == 10

    def test_care_ends_once_everything_is_delivered(self, world: World) -> None:
        # Given a relay that is careful, since others have died
        TestNoMessageIsBlamed._die_at_once(world, CAREFUL_AFTER)
        world.write("a1", "a2", "a3")
        relay = world.relay()
        relay.run_once()
        # Then it sends pages again, and its successor as well
        (term,) = relay._service.terms
        assert not term.is_careful
        relay.close()
        assert not begin_term(world.relay()).is_careful
