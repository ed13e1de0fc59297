from __future__ import annotations

import pytest

from outbox.errors import ConfigurationError
from outbox.store.lanes import Lane, Topology, declared, removed

DEFAULT = Lane("default")


def test_messages_of_a_declared_lane_are_not_those_of_default() -> None:
    lanes = Topology(1, [DEFAULT, Lane("b"), Lane("a", shards=2)])

    assert lanes.streams == ("default", "b", "a:0", "a:1")
    assert lanes.selection("default").others == ("a", "b")
    assert lanes.selection("a:1").lane == "a"
    assert lanes.selection("a:1").shard == 1


def test_default_alone_has_every_message() -> None:
    assert Topology(0, [DEFAULT]).selection("default").is_everything
    assert not Topology(0, [Lane("default", shards=2)]).selection("default:0").is_everything


@pytest.mark.parametrize(
    ("before", "after", "stream", "waits_for"),
    [
        ([DEFAULT], [DEFAULT, Lane("x")], "x", ["default"]),
        ([DEFAULT], [DEFAULT, Lane("x")], "default", []),
        ([DEFAULT, Lane("x")], [DEFAULT], "default", ["x"]),
        ([DEFAULT, Lane("x", shards=2)], [DEFAULT], "default", ["x:0", "x:1"]),
        ([DEFAULT, Lane("x")], [DEFAULT, Lane("x", 5), Lane("y")], "x", []),
        ([DEFAULT, Lane("x")], [DEFAULT, Lane("x", shards=2)], "x:1", ["x"]),
        ([DEFAULT, Lane("x", shards=3)], [DEFAULT, Lane("x", shards=2)], "x:1", ["x:0", "x:2"]),
        ([Lane("default", shards=2)], [DEFAULT], "default", ["default:0", "default:1"]),
        ([DEFAULT], [DEFAULT, Lane("x")], "gone", []),
    ],
)
def test_a_stream_waits_for_those_that_may_have_messages_of_its_keys(
    before: list[Lane], after: list[Lane], stream: str, waits_for: list[str]
) -> None:
    earlier, later = Topology(1, before), Topology(2, after)

    assert list(later.predecessors(earlier, stream)) == waits_for


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Lane("no:colon"), "not a valid name"),
        (lambda: Lane("x", shards=0), "0 shards; use 1 to 64"),
        (lambda: Lane("x", shards=65), "65 shards; use 1 to 64"),
        (lambda: Lane("x", priority=1001), "use -1000 to 1000"),
        (lambda: Topology(0, [Lane("x")]), "'default' cannot be removed"),
        (lambda: removed({"default": DEFAULT}, "x"), "no lane called 'x'"),
    ],
)
def test_what_cannot_be_is_refused(make: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()  # type: ignore[operator] # one of the functions above


def test_a_lane_is_added_changed_and_removed() -> None:
    lanes = {"default": DEFAULT}
    with_one = {lane.name: lane for lane in declared(lanes, Lane("x"))}

    assert declared(with_one, Lane("x", 7)) == [DEFAULT, Lane("x", 7)]
    assert removed(with_one, "x") == [DEFAULT]
