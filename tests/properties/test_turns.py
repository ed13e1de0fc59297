from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from outbox.relay.turns import PATIENCE, Turns


def serve(turns: Turns, priorities: dict[str, int], waiting: set[str]) -> str | None:
    """Let one lane have a page, as the relay does; return which."""
    order = turns.order(priorities)
    for place, lane in enumerate(order):
        if lane in waiting:
            turns.served(lane, order[place + 1 :])
            return lane
        turns.had_nothing(lane)
    return None


def test_a_higher_priority_goes_first() -> None:
    turns = Turns()
    served = [serve(turns, {"low": 0, "high": 9}, {"low", "high"}) for _ in range(PATIENCE)]

    assert served == ["high"] * PATIENCE


def test_of_equals_the_least_recently_served_goes_first() -> None:
    turns = Turns()
    lanes = {"a": 0, "b": 0, "c": 0}

    assert [serve(turns, lanes, {*lanes}) for _ in range(6)] == ["a", "b", "c"] * 2


def test_who_had_nothing_to_send_has_not_been_passed_over() -> None:
    turns = Turns()
    lanes = {"high": 9, "low": 0}
    for _ in range(10 * PATIENCE):
        serve(turns, lanes, {"high"})
        turns.had_nothing("low")

    assert serve(turns, lanes, {"high", "low"}) == "high"


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(-3, 3), min_size=1),
    st.integers(1, 200),
)
def test_nobody_starves(priorities: dict[str, int], pages: int) -> None:
    turns = Turns()
    since = dict.fromkeys(priorities, 0)
    for _ in range(pages):
        lane = serve(turns, priorities, set(priorities))
        for other in since:
            since[other] = 0 if other == lane else since[other] + 1
        # Several may run out of patience at the same time; they then take turns.
        assert max(since.values()) <= PATIENCE + len(priorities)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(-3, 3), min_size=2))
def test_the_highest_gets_most(priorities: dict[str, int]) -> None:
    turns = Turns()
    served = [serve(turns, priorities, set(priorities)) for _ in range(500)]

    counts = {lane: served.count(lane) for lane in priorities}
    highest = max(priorities.values())
    least_of_highest = min(counts[lane] for lane in priorities if priorities[lane] == highest)
    assert all(counts[lane] <= least_of_highest + 1 for lane in priorities)
