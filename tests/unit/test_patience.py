"""How long a silent server is waited for."""

from __future__ import annotations

from outbox.store.postgresql.patience import LONGEST_S, Patience


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_statement_that_takes_long_is_given_the_time_at_last() -> None:
    patience = Patience(5.0, Clock())
    waited = []
    for _ in range(7):
        waited.append(patience.seconds)
        patience.ran_out()
    assert waited == [5.0, 10.0, 20.0, 40.0, 80.0, LONGEST_S, LONGEST_S]


def test_trouble_is_forgotten_after_a_while() -> None:
    clock = Clock()
    patience = Patience(5.0, clock)
    patience.ran_out()
    patience.ran_out()
    clock.now += 500
    assert patience.seconds == 20.0
    clock.now += 200
    assert patience.seconds == 5.0
    patience.ran_out()
    assert patience.seconds == 10.0


def test_who_is_more_patient_from_the_start_stays_so() -> None:
    patience = Patience(300.0, Clock())
    patience.ran_out()
    assert patience.seconds == 300.0
