"""Faults over several streams, and what operators have removed: planted, and found or explained."""

from __future__ import annotations

import pytest

from outbox.store.held import Action, HeldFilter
from outbox.store.lanes import Lane
from outbox.writer.editing import Changes, edited
from tests.verify.world import Parcel, World

pytestmark = [pytest.mark.kafka]

DEFAULT, BULK = Lane("default"), Lane("bulk")
SHARDED = Lane("default", shards=2)
ACTION = Action(
    "018f3f1e-0000-7000-8000-00000000000c",
    "ada",
    "host pid=1",
    "held discard",
    {"relay": "default"},
)


def write(world: World, *keys: str, lane: str | None = "bulk") -> None:
    """Commit a message of a lane for each key."""
    mark = "%s" if world.kit.has_snapshots else "?"
    writer = world.kit.writer()
    for key in keys:
        with world.kit.transaction(writer):
            writer.execute(
                "insert into outbox_message (topic, key, payload, lane)"
                f" values ({mark}, {mark}, {mark}, {mark})",
                (world.topic, key, b"x", lane),
            )


def change(world: World, *lanes: Lane) -> None:
    world.kit.store().change_lanes(list(lanes))


def send_all(world: World, *streams: str) -> list[Parcel]:
    return [parcel for stream in streams for parcel in world.send(stream=stream)]


class Late:
    """Keeps back what a stream was to send, for later."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self.kept: list[Parcel] = []

    def __call__(self, parcels: list[Parcel]) -> list[Parcel]:
        self.kept += [parcels[number] for number in self._numbers]
        return [parcel for number, parcel in enumerate(parcels) if number not in self._numbers]


# Order


def test_a_key_that_goes_from_lane_to_lane_in_its_order_is_well(any_world: World) -> None:
    # Given a lane that is declared, and removed again, with messages before, meanwhile and after
    def write_all() -> None:
        write(any_world, "a", "b", "a")
        write(any_world, "a", lane=None)

    write_all()
    any_world.send()
    change(any_world, DEFAULT, BULK)
    any_world.send()  # to the end of what is its own
    write_all()
    send_all(any_world, "default", "bulk")
    change(any_world, DEFAULT)
    write_all()
    send_all(any_world, "bulk", "default", "default")

    topic = any_world.verdict()

    assert (topic.faults, topic.found, topic.again) == (0, 12, 0)


def test_keys_of_different_lanes_have_no_order_between_them(any_world: World) -> None:
    change(any_world, DEFAULT, BULK)
    for lane in (None, "bulk", None, "bulk"):
        write(any_world, "a", lane=lane)
        any_world.send(stream=lane or "default")

    assert any_world.verdict().faults == 0


def test_a_message_of_before_a_change_of_lanes_behind_one_of_after_is_out_of_order(
    any_world: World,
) -> None:
    # Given a stream whose last message of a key comes after those of the stream that followed it
    late = Late(1)
    write(any_world, "a", "a", "b")
    any_world.send(late)
    change(any_world, DEFAULT, BULK)
    any_world.send()
    write(any_world, "a", "b")
    any_world.send(stream="bulk")
    any_world.produce(late.kept)

    report = any_world.verify()

    (topic,) = report.topics
    assert (topic.out_of_order, topic.faults, topic.found) == (1, 1, 5)
    (finding,) = report.findings
    assert (finding.kind, finding.key, finding.id) == (
        "out of order",
        "a",
        late.kept[0].header("id"),
    )


def test_shards_that_change_places_are_out_of_order(postgresql_world: World) -> None:
    # Given keys that go from one shard to two, and one message of each that comes too late
    late = Late(4, 5, 6, 7)
    write(postgresql_world, *"abcdabcd", lane=None)
    postgresql_world.send(late)
    change(postgresql_world, SHARDED)
    postgresql_world.send()
    write(postgresql_world, *"abcd", lane=None)
    send_all(postgresql_world, "default:0", "default:1")
    postgresql_world.produce(late.kept)

    topic = postgresql_world.verdict()

    assert (topic.out_of_order, topic.faults, topic.found) == (4, 4, 12)


def test_within_each_of_several_streams_the_order_is_looked_at(postgresql_world: World) -> None:
    change(postgresql_world, SHARDED)
    postgresql_world.send()
    write(postgresql_world, *"abcdabcd", lane=None)
    for shard in (0, 1):
        sent = postgresql_world.send(lambda parcels: parcels[::-1], stream=f"default:{shard}")
        assert sent, "each shard has some of the keys"

    topic = postgresql_world.verdict()

    assert (topic.out_of_order, topic.faults) == (4, 4)


# Repetitions and losses


def test_a_message_that_two_streams_sent_is_misplaced(any_world: World) -> None:
    # Given a message that a stream sends once more that comes after its own
    write(any_world, "a", "b")
    sent = any_world.send()
    change(any_world, DEFAULT, BULK)
    any_world.send()
    write(any_world, "c")
    (after,) = any_world.send(stream="bulk")
    theirs = after.header("outbox-position").rsplit("/", 1)[0]
    number = sent[0].header("outbox-position").rpartition("/")[2]
    any_world.produce([sent[0].with_header("outbox-position", f"{theirs}/{number}")])

    topic = any_world.verdict()

    assert (topic.misplaced, topic.again) == (1, 1)


def test_a_piece_that_one_stream_sends_again_among_those_of_another_is_explained(
    any_world: World,
) -> None:
    # Given two streams of which one dies and sends again, while the other goes on
    change(any_world, DEFAULT, BULK)
    any_world.send()
    write(any_world, *"abab")
    write(any_world, *"cdcd", lane=None)
    other: list[Parcel] = []

    def interrupted(parcels: list[Parcel]) -> list[Parcel]:
        other.extend(any_world.send())
        return [*parcels[:3], *parcels[1:]]

    any_world.send(interrupted, stream="bulk")

    topic = any_world.verdict()
    assert (topic.faults, topic.resent, topic.found) == (0, 2, 8)

    # And one message alone is not
    any_world.produce([other[1]])
    assert any_world.verdict().repeated == 1


def test_what_one_of_several_shards_loses_is_missing(postgresql_world: World) -> None:
    change(postgresql_world, SHARDED)
    postgresql_world.send()
    write(postgresql_world, *"abcd" * 3, lane=None)
    late = Late(1)
    postgresql_world.send(late, stream="default:0")
    postgresql_world.send(stream="default:1")

    report = postgresql_world.verify()

    assert (report.topics[0].missing, report.faults) == (1, 1)
    assert report.findings[0].id == late.kept[0].header("id")


# What operators remove


def hold_last(world: World, state: str = "dead") -> None:
    """Let the relay put the last message aside that was written, as the cursor passed it."""
    names = world.kit.names
    world.kit.writer().execute(
        f"""insert into {names["outbox_held"]}
                   (relay, lane, seq, created_at, id, topic, key, payload, state, blocks)
            select 'default', 'default', seq, created_at, id, topic, key, payload, '{state}', true
              from {names["outbox_message"]} order by seq desc limit 1"""
    )


def test_what_was_discarded_is_not_missing(any_world: World) -> None:
    # Given a message that was held and discarded, and one that was lost
    any_world.write("a", "b", "c")
    any_world.send(lambda parcels: parcels[:1])
    hold_last(any_world)
    admin = any_world.kit.store().held_admin()
    assert admin.discard(HeldFilter("default"), 10, ACTION) == (1, None)

    topic = any_world.verdict()

    assert (topic.discarded, topic.missing, topic.faults, topic.found) == (1, 1, 1, 1)


def test_what_was_discarded_under_another_relay_name_is_missing_here(any_world: World) -> None:
    any_world.kit.store().create_relay("audit", "earliest")
    any_world.write("a")
    any_world.send(lambda _: [])
    any_world.send(lambda _: [], relay="audit")
    hold_last(any_world)
    any_world.kit.store().held_admin().discard(HeldFilter("default"), 10, ACTION)

    assert any_world.verdict().faults == 0
    assert any_world.verdict(relay="audit").missing == 1


def test_a_number_that_was_given_out_anew_is_another_message(any_world: World) -> None:
    """As after a rebase, or where a fixture has reset the sequence."""
    any_world.write("a")
    any_world.send(lambda _: [])
    hold_last(any_world)
    any_world.kit.store().held_admin().discard(HeldFilter("default"), 10, ACTION)
    any_world.kit.writer().execute(
        "update outbox_message set id = '018f3f1e-0000-7000-8000-0000000000ff'"
    )
    assert (any_world.verdict().missing, any_world.verdict().discarded) == (1, 0)


def test_what_expired_is_told_apart_from_what_is_held(any_world: World) -> None:
    any_world.write("a", "b")
    any_world.send(lambda parcels: parcels[:1])
    hold_last(any_world, "expired")

    topic = any_world.verdict()

    assert (topic.faults, topic.expired, topic.held) == (0, 1, 0)


@pytest.mark.parametrize("moved", [False, True], ids=["same-topic", "other-topic"])
def test_what_goes_in_place_of_another_is_looked_for(any_world: World, *, moved: bool) -> None:
    # Given a message that was edited
    any_world.write("a", "b")
    any_world.send(lambda parcels: parcels[:1])
    hold_last(any_world)
    admin = any_world.kit.store().held_admin()
    (which,) = admin.find(HeldFilter("default"), 10)
    old = admin.content("default", which.seq)
    assert old is not None
    first, second = any_world.topic, any_world.topic
    if moved:
        second = any_world.kafka.create_topic(partitions=1)
    new = edited(old, Changes(payload=b"mended", topic=second))
    assert admin.edit(which, "default", new, _edit())
    assert any_world.verify().topics[0].held == 1

    # When it is gone, and its topic does not have it
    any_world.kit.writer().execute("delete from outbox_held")
    report = any_world.verify()

    # Then it is missing
    (finding,) = report.findings
    assert (report.faults, finding.kind, finding.topic) == (1, "missing", second)
    assert finding.what.startswith("replaced by an operator, and what goes instead is not")

    # And when the topic has it, all is well
    any_world.topic = second
    any_world.produce([Parcel("b", b"mended", (("id", new.id.encode()),))])
    any_world.topic = first
    report = any_world.verify()
    assert (report.faults, sum(topic.found for topic in report.topics)) == (0, 2)
    assert sum(topic.replaced for topic in report.topics) == 1
    assert any_world.verify(topics=(first,)).faults == 0


def _edit() -> Action:
    return Action(
        "018f3f1e-0000-7000-8000-00000000000d",
        "ada",
        "host pid=1",
        "held edit",
        {"relay": "default"},
    )
