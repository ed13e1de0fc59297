"""When relays that died prove that a message killed them, and when they do not."""

from __future__ import annotations

import random
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.relay.caution import Caution
from outbox.store.trail import CAREFUL_AFTER, PROVEN_AFTER, Trail, follow

seqs = st.integers(min_value=1, max_value=4)
#: What each relay had noted when it died; None: nothing.
deaths = st.lists(st.none() | seqs, max_size=12)


def after(died_with: list[int | None], trail: Trail | None = None) -> Trail:
    trail = trail or Trail()
    for seq in died_with:
        trail = Trail(trail.crashes, seq, trail.suspect, trail.deaths).after_death()
    return trail


@given(deaths, seqs)
def test_only_deaths_in_a_row_with_the_same_message_prove_anything(
    died_with: list[int | None], seq: int
) -> None:
    in_a_row = len(list(takewhile(lambda each: each == seq, reversed(died_with))))
    before = died_with[-in_a_row - 1] if in_a_row < len(died_with) else None
    # The first one had messages before it on their way, too.
    alone = in_a_row - (before is None)
    assert after(died_with).proves(seq) == (alone >= PROVEN_AFTER)


@given(deaths, seqs)
def test_a_relay_that_dies_with_nothing_handed_over_clears_every_message(
    died_with: list[int | None], seq: int
) -> None:
    trail = after([*died_with, None])
    assert (trail.suspect, trail.deaths) == (None, 0)
    assert not after([seq] * PROVEN_AFTER, trail).proves(seq)
    assert after([seq] * (PROVEN_AFTER + 1), trail).proves(seq)


@given(deaths)
def test_every_death_counts_as_one(died_with: list[int | None]) -> None:
    assert after(died_with).crashes == len(died_with)
    assert after(died_with).is_careful == (len(died_with) >= CAREFUL_AFTER)


@given(deaths, seqs, st.sampled_from([None, "us"]))
def test_an_end_in_order_is_evidence_neither_way(
    died_with: list[int | None], seq: int, holder: str | None
) -> None:
    known = after(died_with)
    handed = Trail(known.crashes, seq, known.suspect, known.deaths)
    assert follow(handed, holder, "us") == known


@given(deaths)
def test_whoever_takes_over_from_another_takes_it_for_dead(died_with: list[int | None]) -> None:
    known = after(died_with)
    assert follow(known, "another", "us") == known.after_death()


# One term's care

CAREFUL = Trail(crashes=CAREFUL_AFTER)
SUSPICIOUS = Trail(CAREFUL_AFTER + 1, None, 7, 1)
PROVEN = Trail(CAREFUL_AFTER + PROVEN_AFTER, None, 7, PROVEN_AFTER)
draws = st.randoms(use_true_random=False)


@given(deaths, draws, st.integers(1, 20))
def test_without_enough_deaths_nothing_is_different(
    died_with: list[int | None], draw: random.Random, seq: int
) -> None:
    caution = Caution(after(died_with[: CAREFUL_AFTER - 1]), 10, 100.0, draw)
    assert (caution.is_on, caution.rest_s(100.0), caution.deaths_by(seq)) == (False, 0.0, 0)


@given(draws)
def test_it_rests_only_before_a_suspect(draw: random.Random) -> None:
    for trail in (CAREFUL, Trail(CAREFUL_AFTER + 1, None, 7)):
        assert Caution(trail, 10, 100.0, draw).rest_s(100.0) == 0
    rest_s = Caution(SUSPICIOUS, 10, 100.0, draw).rest_s(100.0)
    assert 0.5 <= rest_s <= 3.0
    assert Caution(SUSPICIOUS, 10, 100.0, draw).rest_s(103.0) == 0


def test_the_rest_is_not_always_as_long() -> None:
    draw = random.Random(1)
    assert len({Caution(SUSPICIOUS, 10, 0.0, draw).rest_s(0.0) for _ in range(20)}) == 20


@given(draws, st.integers(1, 20))
def test_only_a_proven_message_is_held(draw: random.Random, seq: int) -> None:
    assert Caution(SUSPICIOUS, 10, 0.0, draw).deaths_by(seq) == 0
    assert bool(Caution(PROVEN, 10, 0.0, draw).deaths_by(seq)) == (seq == 7)


@pytest.mark.parametrize("caught_up", [False, True])
def test_care_ends_behind_all_that_was_on_its_way_and_is_forgotten_with_a_move(
    caught_up: bool,
) -> None:
    caution = Caution(PROVEN, 10, 0.0, random.Random(1))
    caution.passed(4)
    assert _state(caution) == (True, False, False)
    if caught_up:
        caution.caught_up()
    else:
        caution.passed(6)
    assert _state(caution) == (False, True, caught_up)
    caution.forget()
    assert _state(caution) == (False, False, False)


def _state(caution: Caution) -> tuple[bool, bool, bool]:
    """Return whether it is on, and whether it forgives after a move, and without one."""
    return (
        caution.is_on,
        caution.forgives(moved=True),
        caution.forgives(moved=False),
    )


def blamed(draw: random.Random, mean_life_s: float, terms: int) -> int:
    """Return how many messages are held while something kills relays, whatever they do.

    The worst case: a backlog, of which each message is on its way for a tenth of a second.
    """
    on_its_way_s, found, trail, seq = 0.1, 0, CAREFUL, 1
    for _ in range(terms):
        life_s = draw.expovariate(1 / mean_life_s)
        caution = Caution(trail, 10**6, 0.0, draw)
        found += bool(caution.deaths_by(seq))
        seq += bool(caution.deaths_by(seq))
        handing_s = life_s - caution.rest_s(0.0)
        seq += max(int(handing_s / on_its_way_s), 0)
        noted = seq if handing_s > 0 else None
        trail = Trail(trail.crashes, noted, trail.suspect, trail.deaths).after_death()
    return found


@pytest.mark.parametrize("mean_life_s", [0.1, 0.5, 2.0, 10.0])
def test_what_kills_relays_at_any_time_hardly_ever_finds_a_message_to_blame(
    mean_life_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = 5_000
    assert blamed(random.Random(1), mean_life_s, terms) <= 1
    if mean_life_s < 1:
        # Without the rest it is another matter
        monkeypatch.setattr("outbox.relay.caution._REST_S", (0.0, 0.0))
        assert blamed(random.Random(1), mean_life_s, terms) > 10


def test_messages_go_one_by_one_up_to_where_relays_died_and_then_more_at_a_time() -> None:
    caution = Caution(Trail(CAREFUL_AFTER + 1, None, 7), 1_000, 0.0, random.Random(1))
    assert caution.step == 1
    caution.handed = 6
    assert not caution.passed(1)
    caution.handed = 7
    assert caution.passed(1)
    caution.acquit()
    assert caution.step > 1
