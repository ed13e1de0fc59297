"""What is told from both sides, without servers; and that it takes no longer than it must."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from outbox.store.lanes import Lane, Topology
from outbox.store.retained import Entry, Standing, number_before
from outbox.verify.courses import Courses
from outbox.verify.ledger import Ledger
from outbox.verify.order import ends_of_runs, out_of_place, stragglers
from outbox.verify.partitions import partition_of
from outbox.verify.records import Occurrence, Streams, occurrence

KEYS = 50


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger() as ledger:
        yield ledger


def _fill(ledger: Ledger, count: int) -> None:
    """Put so many messages in, all of them delivered and sent, the last hundred twice."""
    ids = [seq.to_bytes(16) for seq in range(1, count + 1)]
    ledger.add_entries(
        Entry(seq, id_, "t", f"k{seq % KEYS}", False, float(seq), Standing.DELIVERED)
        for seq, id_ in enumerate(ids, 1)
    )
    ledger.topics()
    ledger.begin_topic()
    order = [*range(1, count + 1), *range(count - 99, count + 1)]
    ledger.add_records(
        (place, Occurrence(0, place, ids[seq - 1], 0, seq // 100, seq))
        for place, seq in enumerate(order)
    )
    ledger.match("t")


def _judge(ledger: Ledger) -> list[int]:
    found = (
        ledger.not_found("t", compacted=False),
        ledger.out_of_order(Courses([], {})),
        ledger.repeated(),
        ledger.misplaced({0}),
        ledger.unknown({0}, (1, 10**9)),
    )
    return [len(list(each)) for each in found]


def _steps(count: int) -> int:
    """Return how many thousand steps SQLite takes for so many messages."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    with Ledger() as ledger:
        ledger._db.set_progress_handler(step, 1000)
        _fill(ledger, count)
        assert _judge(ledger) == [0, 0, 0, 0, 0]
        assert ledger.count_records() == (count + 100, 100, 0)
    return steps


def test_twice_as_many_messages_take_about_twice_as_long() -> None:
    assert _steps(8_000) < 3 * _steps(4_000)


def test_what_a_frozen_producer_sends_late_is_not_what_came_first(ledger: Ledger) -> None:
    # Given messages that a successor sent, and that a frozen relay sent with older stamps
    ids = [bytes([seq]) * 16 for seq in range(4)]
    ledger.add_entries(
        Entry(seq, ids[seq], "t", "k", False, float(seq), Standing.DELIVERED) for seq in (1, 2, 3)
    )
    ledger.topics()
    ledger.begin_topic()
    ledger.add_records(
        (stamp, Occurrence(0, offset, ids[seq], 0, 1, seq))
        for offset, (seq, stamp) in enumerate([(1, 50), (2, 51), (3, 52), (1, 10), (2, 11)])
    )
    ledger.match("t")

    # Then the order is that of the successor, and the late ones are out of the row
    assert _judge(ledger) == [0, 0, 2, 0, 0]


def test_the_file_is_gone_afterwards(ledger: Ledger) -> None:
    import pathlib

    place = pathlib.Path(ledger._directory.name)
    assert place.exists()
    ledger.close()
    assert not place.exists()


def test_each_that_lies_behind_a_later_one_is_a_straggler() -> None:
    records = [
        (key, (None, 7), place, number)
        for number, (key, place) in enumerate(
            [("a", (1, 5)), ("a", (1, 1)), ("a", (1, 2)), ("b", (1, 1))]
        )
    ]
    assert list(stragglers(records, lambda _course, generation: generation)) == [1, 2]


@pytest.mark.parametrize(
    ("course", "found"),
    [
        ("default default bulk:0 bulk:0", ""),
        ("default bulk:0 default bulk:0", "2"),  # a message of before, behind one of after
        ("bulk:1 default bulk:0", "1"),
        ("default bulk:0 bulk", ""),  # and the lane has one shard again
        ("default bulk", ""),  # it had nothing while there were shards
        ("bulk bulk:1 default", "12"),
        ("elsewhere default elsewhere", ""),  # of which nothing is known
    ],
)
def test_a_key_goes_from_stream_to_stream_in_the_order_of_the_generations(
    course: str, found: str
) -> None:
    # Given a lane that is declared with two shards, and later has one
    names = {0: "default", 1: "bulk:0", 2: "bulk:1", 3: "bulk", 4: "elsewhere"}
    default = Lane("default")
    topologies = [
        Topology(0, [default]),
        Topology(1, [default, Lane("bulk", shards=2)]),
        Topology(2, [default, Lane("bulk")]),
    ]
    courses = Courses(topologies, names)
    numbers = {name: number for number, name in names.items()}
    records = [
        ("key", ("bulk", numbers[name]), (1, place), place)
        for place, name in enumerate(course.split())
    ]
    stragglers_ = stragglers(records, lambda at, generation: courses.turn(*at, generation))
    assert "".join(map(str, stragglers_)) == found


@pytest.mark.parametrize(
    ("order", "found"),
    [
        ("1234", ""),
        ("12343456", ""),  # from a place on, all of it
        ("1234345456", ""),  # and once more
        ("123434345", ""),  # interrupted in the midst of it
        ("12342567", "2"),  # one from the midst
        ("1234356", "3"),  # not all of it
        ("1234434", ""),  # the last alone, and then more
        ("123412", "12"),  # from the beginning, and not to the end
    ],
)
def test_what_was_sent_again_in_one_piece_is_in_its_place(order: str, found: str) -> None:
    places = [(0, int(each)) for each in order]
    firsts = [
        (0, place, places.count(place) > 1, place)
        for index, place in reversed(list(enumerate(places)))
        if place not in places[:index]
    ]
    ends = dict(ends_of_runs(firsts))
    records = [
        (0, place, ends.get(place) if place in places[:index] else None, place[1])
        for index, place in enumerate(places)
    ]
    assert "".join(map(str, out_of_place(records))) == found


@pytest.mark.parametrize(
    ("key", "of_a_million"),
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("abc", 479470107),
        ("a-little-bit-long-string", -985981536),
    ],
)
def test_partitions_are_those_of_javas_clients(key: str, of_a_million: int) -> None:
    assert partition_of(key, 1_000_000) == (of_a_million & 0x7FFFFFFF) % 1_000_000


def test_what_a_record_says_of_itself() -> None:
    streams = Streams("log", "default")

    def read(*headers: tuple[str, bytes]) -> Occurrence | None:
        return occurrence(3, 7, headers, streams)

    id_ = ("id", b"018f3f1e-0000-7000-8000-000000000001")
    ours = read(id_, ("outbox-position", b"log/default/default/4/9"))
    assert ours is not None
    assert (ours.batch, ours.seq, ours.stream in streams.current) == (4, 9, True)
    before = read(id_, ("outbox-position", b"old/default/default/4/9"))
    assert before is not None
    assert before.stream not in streams.current
    assert read(id_) == Occurrence(3, 7, ours.id, None, None, None)
    for stranger in (b"log/audit/default/4/9", b"nonsense", b"\xff/default/x/1/2", b""):
        assert read(id_, ("outbox-position", stranger)) is None
    assert read(("outbox-position", b"log/default/default/4/9")) is None


def test_the_beginning_of_a_time_is_found_with_few_looks() -> None:
    times = {seq: 1_000.0 * seq for seq in range(10, 10_000, 7)}
    looks: list[int] = []

    def look(after: int) -> tuple[int, float] | None:
        looks.append(after)
        seq = next((seq for seq in times if seq > after), None)
        return None if seq is None else (seq, times[seq])

    for moment in (0.0, 10_000.0, 5_000_000.0, 9_996_000.0, 1e12):
        looks.clear()
        after = number_before(moment, 9, 9_999, look)
        assert all(time < moment for seq, time in times.items() if seq <= after)
        skipped = [seq for seq, time in times.items() if time < moment - 60.0 and seq > after]
        assert skipped == []
        assert len(looks) < 20
