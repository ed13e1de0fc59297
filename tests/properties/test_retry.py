"""What holds of every retry policy."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.config.retry_rules import RetryPolicy, RetryRules, read_retry
from outbox.errors import ConfigurationError

seconds = st.floats(min_value=0.001, max_value=1e6)
attempts = st.integers(min_value=1, max_value=10_000)
draws = st.randoms(use_true_random=False)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    first = draw(seconds)
    return RetryPolicy(
        delay=draw(st.sampled_from(["exponential", "fixed", "random"])),
        first_s=first,
        max_s=first * draw(st.floats(min_value=1, max_value=1e4)),
        max_attempts=draw(st.none() | attempts),
        max_age_s=draw(st.none() | seconds),
    )


@given(policies(), attempts, draws)
def test_a_delay_is_never_nothing_and_never_above_the_maximum(
    policy: RetryPolicy, attempt: int, draw: random.Random
) -> None:
    assert policy.first_s / 2 <= policy.delay_s(attempt, draw) <= policy.max_s


@given(seconds, st.integers(min_value=1, max_value=20), draws)
def test_exponential_delays_lie_between_half_and_the_whole_of_a_bound_that_doubles(
    first: float, attempt: int, draw: random.Random
) -> None:
    bound = first * 2 ** (attempt - 1)
    delay = RetryPolicy(first_s=first, max_s=1e300).delay_s(attempt, draw)
    assert bound / 2 <= delay <= bound


@given(seconds, attempts, draws)
def test_fixed_delays_are_all_the_same(first: float, attempt: int, draw: random.Random) -> None:
    assert RetryPolicy(delay="fixed", first_s=first).delay_s(attempt, draw) == first


def test_jitter_keeps_two_relays_from_keeping_step() -> None:
    draw = random.Random(1)
    delays = {RetryPolicy().delay_s(3, draw) for _ in range(20)}
    assert len(delays) == 20


@given(policies(), st.integers(0, 20_000), st.floats(0, 1e7))
def test_what_is_over_stays_over(policy: RetryPolicy, tried: int, age: float) -> None:
    if policy.is_over(tried, age):
        assert policy.is_over(tried + 1, age)
        assert policy.is_over(tried, age + 1)
    over = tried >= (policy.max_attempts or 1e9) or age >= (policy.max_age_s or 1e9)
    assert policy.is_over(tried, age) == over


# Settings


def test_topics_inherit_what_they_do_not_say() -> None:
    rules = read_retry(
        {
            "first_s": 2,
            "max_attempts": "never",
            "topics": {"payments.*": {"max_attempts": 3}, "payments.eu": {"after_failure": "skip"}},
        }
    )
    assert rules.of("orders") == RetryPolicy(first_s=2, max_attempts=None)
    assert rules.of("payments.us") == RetryPolicy(first_s=2, max_attempts=3)
    # An exact name beats a pattern that stands before it.
    assert rules.of("payments.eu") == RetryPolicy(
        first_s=2, max_attempts=None, after_failure="skip"
    )
    assert ("retry.topics.payments.*.max_attempts", 3) in rules.shown()
    assert ("retry.first_s", 2) in rules.shown()


def test_nothing_said_is_the_default() -> None:
    assert read_retry({}) == RetryRules()
    assert read_retry({}).of("anything").after_failure == "block"
    assert read_retry({}).shown() == []


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"delay": "linear"}, r"\[retry\]: delay = 'linear' is not one of exponential, fixed"),
        ({"first_s": 0}, "first_s = 0 is not a number of seconds greater than 0"),
        ({"first_s": True}, "first_s = True"),
        ({"max_s": "never"}, "max_s = None is not a number"),
        ({"max_age_s": float("inf")}, "max_age_s = inf"),
        ({"first_s": 9, "max_s": 8}, "max_s = 8 is below first_s = 9"),
        ({"max_attempts": 0}, "use 1 or more"),
        ({"max_attempts": 2.5}, "use 1 or more"),
        ({"after_failure": "stop"}, "is not one of block, skip"),
        ({"max-attempts": 3}, "did you mean 'max_attempts'"),
        ({"colour": 3}, "known are delay"),
        ({"topics": {"a": {"delay": "x"}}}, r'\[retry.topics."a"\]: delay'),
        ({"topics": {"a": 3}}, r'\[retry.topics."a"\] must be a table'),
        ({"topics": 3}, r"\[retry.topics\] must be a table"),
        (3, r"\[retry\] must be a table"),
    ],
)
def test_nonsense_is_named(table: object, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        read_retry(table)
