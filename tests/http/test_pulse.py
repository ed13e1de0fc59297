"""What counts as a dead loop, and what is only waiting."""

from __future__ import annotations

import pytest

from outbox.metrics.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pulse(clock: Clock) -> Pulse:
    return Pulse(60.0, 600.0, clock)


def test_a_loop_that_makes_calls_is_alive(pulse: Pulse, clock: Clock) -> None:
    for _ in range(5):
        with pulse.waiting("database"):
            clock.now += 59
        clock.now += 59
        assert pulse.look().alive


def test_a_loop_that_is_still_in_code_of_its_own_is_dead_after_the_time_stated(
    pulse: Pulse, clock: Clock
) -> None:
    with pulse.waiting("database"):
        pass
    clock.now += 60
    assert pulse.look().alive
    clock.now += 0.1
    beat = pulse.look()
    assert (beat.alive, beat.server, round(beat.seconds, 1)) == (False, None, 60.1)


def test_waiting_for_the_database_is_no_death_however_long_it_takes(
    pulse: Pulse, clock: Clock
) -> None:
    with pulse.waiting("database"):
        clock.now += 10**6
        assert (pulse.look().alive, pulse.look().server) == (True, "database")
    # And when the call has ended, time counts from there
    assert pulse.look().alive
    clock.now += 61
    assert not pulse.look().alive


def test_a_call_to_the_brokers_client_that_its_own_limits_did_not_end_hangs(
    pulse: Pulse, clock: Clock
) -> None:
    with pulse.waiting("broker"):
        clock.now += 600
        assert pulse.look().alive
        clock.now += 1
        assert not pulse.look().alive


def test_a_call_within_a_call_gives_the_outer_one_back(pulse: Pulse, clock: Clock) -> None:
    with pulse.waiting("database"):
        with pytest.raises(KeyError), pulse.waiting("broker"):
            raise KeyError
        clock.now += 10**6
        assert pulse.look().alive
    assert pulse.look().server is None
