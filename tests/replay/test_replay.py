"""What is sent again, in which order, and what becomes of it when the broker fails."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from outbox.errors import BrokerUnavailable, ConfigurationError
from outbox.names import Names
from outbox.publishers.base import DeliveryFailed
from outbox.publishers.kafka import KafkaPublisher
from outbox.publishers.memory import MemoryPublisher, PublishedMessage
from outbox.relay import replay
from outbox.relay.replay import Order, Replay, counted, parse_token
from outbox.store.held import Action, HeldFilter
from outbox.store.opening import open_retained_log
from outbox.store.retained import Selection
from tests.verify.world import World

pytestmark = [pytest.mark.kafka]

RUN = uuid.UUID("018f3f1e-0000-7000-8000-00000000000a")


def _order(log: Any, new_ids: bool = False, after: int = 0, **selection: Any) -> Order:
    return Order(log.reach("default"), Selection(**selection), RUN, new_ids, after)


def _replayed(world: World, **arguments: Any) -> list[PublishedMessage]:
    """Return what is sent again."""
    published: list[PublishedMessage] = []
    with closing(open_retained_log(world.kit.url, Names())) as log:
        log.connect()
        order = _order(log, **arguments)
        done = Replay(log, lambda: MemoryPublisher(published), order)
        done.run(threading.Event())
        assert done.sent == len(published) == counted(log, order).total()
    return published


def _keys(published: list[PublishedMessage]) -> list[str | None]:
    return [message.key for message in published]


def test_what_is_delivered_is_sent_again_in_its_order_without_a_position(any_world: World) -> None:
    # Given messages that are delivered, held, and waiting
    any_world.write("a", "b", "a", None)
    sent = any_world.send()
    names = any_world.kit.names
    any_world.kit.writer().execute(
        f"""insert into {names["outbox_held"]}
                   (relay, lane, seq, created_at, id, topic, key, state, blocks)
            select 'default', 'default', seq, created_at, id, topic, key, 'dead', true
              from {names["outbox_message"]} where key = 'b'"""
    )
    any_world.write("waiting")

    # When all of the topic is replayed
    again = _replayed(any_world, topics=(any_world.topic,))

    # Then it is what was delivered, as it was, but for the position
    assert _keys(again) == ["a", "a", None]
    assert [message.id for message in again] == [
        parcel.header("id") for parcel in sent if parcel.key != "b"
    ]
    assert {message.header("outbox-position") for message in again} == {None}


def test_what_an_operator_has_discarded_is_not_sent_after_all(any_world: World) -> None:
    # Given a message that was held, and discarded
    any_world.write("a", "b", "c")
    any_world.send(lambda parcels: [each for each in parcels if each.key != "b"])
    names = any_world.kit.names
    any_world.kit.writer().execute(
        f"""insert into {names["outbox_held"]}
                   (relay, lane, seq, created_at, id, topic, key, state, blocks)
            select 'default', 'default', seq, created_at, id, topic, key, 'dead', true
              from {names["outbox_message"]} where key = 'b'"""
    )
    action = Action(str(RUN), "ada", "host", "held discard", {"relay": "default"})
    any_world.kit.store().held_admin().discard(HeldFilter("default"), 10, action)

    assert _keys(_replayed(any_world, topics=(any_world.topic,))) == ["a", "c"]


def test_a_page_is_bounded_and_the_order_is_kept_over_many(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_LOOK", 4)
    monkeypatch.setattr(replay, "_PAGE", 3)
    any_world.write(*map(str, range(25)))
    any_world.send()

    assert _keys(_replayed(any_world, topics=(any_world.topic,))) == list(map(str, range(25)))


def test_each_option_narrows_what_is_meant(any_world: World) -> None:
    log, writer = any_world.kit.names["outbox_message"], any_world.kit.writer()
    any_world.write("old")
    any_world.send()
    any_world.kit.age(3600)
    any_world.write("a", "b")
    writer.execute(
        f"insert into {log} (topic, key, type, payload) values ('other', 'c', 'made', null)"
    )
    ids = {parcel.key: parcel.header("id") for parcel in any_world.send()}
    ((now,),) = writer.execute(
        "select extract(epoch from now())::float8"
        if any_world.kit.has_snapshots
        else "select (julianday('now') - 2440587.5) * 86400.0"
    )
    for selection, expected in (
        ({"since": now - 60}, ["a", "b", "c"]),
        ({"until": now - 60}, ["old"]),
        ({"since": now - 60, "topics": (any_world.topic,)}, ["a", "b"]),
        ({"keys": ("b", "c")}, ["b", "c"]),
        ({"types": ("made",)}, ["c"]),
        ({"ids": (ids["a"], ids["c"])}, ["a", "c"]),
        ({"keys": ("nobody",)}, []),
    ):
        assert _keys(_replayed(any_world, **selection)) == expected, selection


def test_what_has_expired_since_is_not_sent_again(any_world: World) -> None:
    any_world.write("expired", "valid", "for ever")
    any_world.send()
    log, writer = any_world.kit.names["outbox_message"], any_world.kit.writer()
    seconds = "to_timestamp({})" if any_world.kit.has_snapshots else "cast({} as real)"
    for key, moment in (("expired", 1), ("valid", 4e9)):
        writer.execute(
            f"update {log} set expires_at = {seconds.format(moment)} where key = '{key}'"
        )

    assert _keys(_replayed(any_world, topics=(any_world.topic,))) == ["valid", "for ever"]


def test_new_ids_are_the_same_in_every_attempt_of_one_undertaking(any_world: World) -> None:
    any_world.write("a", "b")
    old = [parcel.header("id") for parcel in any_world.send()]

    first = [each.id for each in _replayed(any_world, new_ids=True, keys=("a", "b"))]
    second = [each.id for each in _replayed(any_world, new_ids=True, keys=("a", "b"))]

    assert first == second
    assert not set(first) & set(old)


def test_after_a_failed_delivery_it_goes_on_behind_what_was_confirmed(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given publishers that break down after some messages, but for the third one
    monkeypatch.setattr(replay, "_PAGE", 2)
    any_world.write(*map(str, range(10)))
    any_world.send()
    published: list[PublishedMessage] = []
    fails = iter([5, 3, None])
    with closing(open_retained_log(any_world.kit.url, Names())) as log:
        log.connect()
        done = Replay(
            log,
            lambda: MemoryPublisher(published, fail_at=next(fails)),
            _order(log, topics=(any_world.topic,)),
        )

        # When all is replayed
        done.run(threading.Event())

    # Then everything was sent, and what is repeated follows what was confirmed
    keys = [int(message.key or "") for message in published]
    assert keys == [0, 1, 2, 3, 4, *range(4, 7), *range(6, 10)]
    assert done.sent == 10


def test_it_gives_up_and_says_where_to_go_on(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a broker that is gone after a while
    monkeypatch.setattr(replay, "_PAGE", 2)
    any_world.write(*map(str, range(6)))
    any_world.send()
    published: list[PublishedMessage] = []
    with closing(open_retained_log(any_world.kit.url, Names())) as log:
        log.connect()
        makers: list[Callable[[], Any]] = [lambda: MemoryPublisher(published, fail_at=4), _Gone]
        done = Replay(
            log,
            lambda: makers.pop(0)() if len(makers) > 1 else makers[0](),
            _order(log, topics=(any_world.topic,)),
            timeout_s=0.3,
        )
        with pytest.raises(BrokerUnavailable):
            done.run(threading.Event())
        assert done.sent == 4

        # When it is resumed, then the rest is sent
        rest = Replay(
            log,
            lambda: MemoryPublisher(published),
            _order(log, after=done.after, topics=(any_world.topic,)),
        )
        rest.run(threading.Event())
    assert _keys(published) == list(map(str, range(6)))


class _Gone(MemoryPublisher):
    def connect(self, timeout_s: float) -> str:
        raise DeliveryFailed("gone")


def test_told_to_stop_it_waits_for_what_is_in_flight(
    any_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_PAGE", 2)
    any_world.write(*map(str, range(6)))
    any_world.send()
    stop = threading.Event()
    published: list[PublishedMessage] = []
    with closing(open_retained_log(any_world.kit.url, Names())) as log:
        log.connect()
        done = Replay(
            log,
            lambda: MemoryPublisher(published),
            _order(log, topics=(any_world.topic,)),
            progress=lambda *_: stop.set(),
        )
        done.run(stop)

    assert _keys(published) == ["0", "1"]
    assert done.sent == 2


def test_another_cluster_than_the_relays_is_refused(any_world: World) -> None:
    any_world.write("a")
    any_world.send()
    store = any_world.kit.store()
    lease = store.acquire("default", "default", "test", 10.0)
    store.bind_cluster(lease, "another")
    store.release(lease, lease.position)

    with pytest.raises(ConfigurationError, match="publishes to Kafka cluster 'another'"):
        _replayed(any_world, keys=("a",))


def test_a_real_broker_has_them_again_and_verify_says_so(any_world: World) -> None:
    # Given a topic that has lost everything, to which new messages go
    any_world.write(*["a", "b", "c"] * 100, None)
    sent = any_world.send()
    properties = {"bootstrap.servers": any_world.kafka.bootstrap_servers}
    with closing(open_retained_log(any_world.kit.url, Names())) as log:
        log.connect()
        done = Replay(
            log,
            lambda: KafkaPublisher(properties),
            _order(log, topics=(any_world.topic,)),
        )
        done.run(threading.Event())

    # Then the topic has each message twice, the second time in order too
    messages = any_world.kafka.read(any_world.topic)
    assert len(messages) == 2 * len(sent) == 602
    again = [each for each in messages if "outbox-position" not in dict(each.headers() or [])]
    for key in (b"a", b"b", b"c"):
        found = [dict(each.headers())["id"].decode() for each in again if each.key() == key]
        assert found == [each.header("id") for each in sent if each.key == key.decode()]
    topic = any_world.verdict()
    assert (topic.faults, topic.requeued, topic.found) == (0, 301, 301)


@pytest.mark.parametrize("text", ["", "x", f"{RUN}", f"{RUN}:", f"{RUN}:-1", "x:1"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number|badly formed"):
        parse_token(text)
