from __future__ import annotations

from outbox.relay.fitness import Fitness


def test_who_has_not_failed_is_fit() -> None:
    assert Fitness().is_fit(0.0)


def test_who_fails_lets_others_go_first_for_a_while_and_longer_each_time() -> None:
    fitness = Fitness()
    pauses = []
    now = 0.0
    for _ in range(9):
        fitness.failed(now)
        began = now
        while not fitness.is_fit(now):
            now += 0.5
        pauses.append(now - began)

    assert pauses[:4] == [5.0, 10.0, 20.0, 40.0]
    assert pauses[-1] == 300.0


def test_failing_again_meanwhile_makes_it_no_longer() -> None:
    fitness = Fitness()
    fitness.failed(0.0)
    fitness.failed(4.0)

    assert fitness.is_fit(5.0)


def test_who_succeeds_is_fit_at_once() -> None:
    fitness = Fitness()
    fitness.failed(0.0)
    fitness.failed(6.0)
    fitness.succeeded()

    assert fitness.is_fit(6.0)
    fitness.failed(7.0)
    assert fitness.is_fit(12.0)
