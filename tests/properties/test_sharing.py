from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from outbox.relay.sharing import share
from outbox.store.base import Stream

PROCESSES = ["p", "q", "r", "s"]

streams = st.lists(
    st.builds(
        Stream,
        name=st.text("abcdefgh", min_size=1, max_size=3),
        owner=st.sampled_from([None, "gone", *PROCESSES]),
        expired=st.booleans(),
        priority=st.integers(-2, 2),
    ),
    max_size=12,
    unique_by=lambda stream: stream.name,
)
processes = st.lists(st.sampled_from(PROCESSES), min_size=1, unique=True)


@given(streams, processes)
def test_every_stream_is_with_a_process_and_all_have_as_many(
    streams: list[Stream], processes: list[str]
) -> None:
    placed = share(streams, processes)

    assert placed.keys() == {stream.name for stream in streams}
    counts = [Counter(placed.values())[process] for process in processes]
    assert set(placed.values()) <= set(processes)
    assert max(counts) - min(counts) <= 1


@given(streams, processes, st.randoms())
def test_all_processes_come_to_the_same_result(
    streams: list[Stream], processes: list[str], random: object
) -> None:
    placed = share(streams, processes)
    random.shuffle(streams)  # type: ignore[attr-defined] # hypothesis' own Random
    random.shuffle(processes)  # type: ignore[attr-defined] # hypothesis' own Random

    assert share(streams, processes) == placed


@given(streams, processes)
def test_once_shared_nothing_moves(streams: list[Stream], processes: list[str]) -> None:
    placed = share(streams, processes)
    after = [Stream(each.name, placed[each.name], False, each.priority) for each in streams]

    assert share(after, processes) == placed


@given(streams, processes)
def test_when_a_process_comes_only_what_it_gets_moves(
    streams: list[Stream], processes: list[str]
) -> None:
    placed = share(streams, processes)
    after = [Stream(each.name, placed[each.name], False, each.priority) for each in streams]

    again = share(after, [*processes, "new"])

    assert all(again[name] in (placed[name], "new") for name in placed)


@given(streams, processes)
def test_when_a_process_goes_only_what_it_had_moves(
    streams: list[Stream], processes: list[str]
) -> None:
    placed = share(streams, [*processes, "old"])
    after = [Stream(each.name, placed[each.name], False, each.priority) for each in streams]

    again = share(after, processes)

    assert all(again[name] == placed[name] for name in placed if placed[name] != "old")
