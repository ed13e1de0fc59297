"""Checks of when messages are tried again, and when they are given up."""

from __future__ import annotations

from collections.abc import Iterator

from outbox.config.retry_rules import RetryPolicy, RetryRules
from outbox.doctor.check import Verdict, check, warning
from outbox.doctor.words import age

#: With more days than this to the last attempt nobody sees a message die.
_LONGEST_S = 7 * 86_400.0


def reachable(rules: RetryRules) -> Iterator[Verdict]:
    """Judge rules of retries of which a part never happens."""
    for pattern, earlier in rules.shadowed():
        yield warning(
            f'[retry.topics."{pattern}"] is never used: "{earlier}" stands before it and takes the'
            " same topics",
            "put the narrower pattern first",
        )
    named = [(f'[retry.topics."{pattern}"]', policy) for pattern, policy in rules.topics]
    for place, policy in [("[retry]", rules.default), *named]:
        yield from _unreached(place, policy)


def _unreached(place: str, policy: RetryPolicy) -> Iterator[Verdict]:
    """Judge a number of attempts that an age, or the patience of anybody, comes before."""
    attempts = policy.max_attempts
    if attempts is None:
        return
    _, most_s = policy.span_s(attempts)
    before_s, _ = policy.span_s(attempts - 1)
    if policy.max_age_s is None:
        if most_s > _LONGEST_S:
            yield warning(
                f"{place}: attempt {attempts}, after which a message is dead, comes up to"
                f" {age(most_s)} after the first; until then its key stands still",
                "a smaller max_attempts, or max_age_s",
            )
    elif attempts != RetryPolicy().max_attempts and before_s >= policy.max_age_s:
        yield warning(
            f"{place}: attempt {attempts} is never made, since max_age_s = {policy.max_age_s:g}"
            " ends before it",
            f"max_age_s above {most_s:.0f}, or a smaller max_attempts",
        )


CHECKS = (
    check(
        "retry-rules",
        "configuration",
        looks_at="rules of `[retry]` of which a part is never reached",
        advice="correct `outbox.toml`",
        probe=lambda patient: patient.settings.retry,
        judge=reachable,
        well="every rule of retries can be reached",
    ),
)
