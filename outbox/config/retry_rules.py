"""When a message that could not be sent is tried again, and when it is given up.

The table [retry] of the file, and its tables for topics: [retry.topics."payments.*"].
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, cast

from outbox.errors import ConfigurationError

Kind = Literal["exponential", "fixed", "random"]
AfterFailure = Literal["block", "skip"]

_CHOICES = {"delay": ("exponential", "fixed", "random"), "after_failure": ("block", "skip")}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and when a message is tried again that is itself to blame. Times in seconds.

    `delay`: `exponential` doubles from `first_s` to `max_s`, with equal jitter: attempt n waits
    between half and the whole of its bound, so that none comes at once and no two relays keep step.
    `fixed` waits `first_s` each time; `random` anything from `first_s` to `max_s`.
    `max_attempts`, `max_age_s`: what makes it dead, whichever comes first; None: never.
    `after_failure`: whether later messages of its key wait (`block`), or overtake it (`skip`).
    """

    delay: Kind = "exponential"
    first_s: float = 1.0
    max_s: float = 300.0
    max_attempts: int | None = 10
    max_age_s: float | None = None
    after_failure: AfterFailure = "block"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigurationError(
                    f"{name} = {getattr(self, name)!r} is not one of {', '.join(choices)}"
                )
        for name in ("first_s", "max_s", "max_age_s"):
            _check_seconds(name, getattr(self, name))
        _check_attempts(self.max_attempts)
        if self.delay != "fixed" and self.max_s < self.first_s:
            raise ConfigurationError(f"max_s = {self.max_s:g} is below first_s = {self.first_s:g}")

    def delay_s(self, attempt: int, draw: random.Random) -> float:
        """Return how long to wait after failure number `attempt`, counted from 1."""
        if self.delay == "fixed":
            return self.first_s
        if self.delay == "random":
            return draw.uniform(self.first_s, self.max_s)
        bound = min(self.max_s, self.first_s * 2.0 ** min(attempt - 1, 64))
        return draw.uniform(bound / 2, bound)

    def span_s(self, attempts: int) -> tuple[float, float]:
        """Return the least and the most time from the first attempt to number `attempts`.

        >>> RetryPolicy().span_s(3), RetryPolicy(delay="fixed", first_s=5.0).span_s(3)
        ((1.5, 3.0), (10.0, 10.0))
        """
        waits = max(attempts - 1, 0)
        if self.delay != "exponential":
            most_s = self.first_s if self.delay == "fixed" else self.max_s
            return waits * self.first_s, waits * most_s
        doubled = [min(self.max_s, self.first_s * 2.0**n) for n in range(min(waits, 64))]
        bound = sum(doubled) + (waits - len(doubled)) * self.max_s
        return bound / 2, bound

    def is_over(self, attempts: int, age_s: float) -> bool:
        """Return whether a message is dead after so many attempts, held for so long."""
        too_many = self.max_attempts is not None and attempts >= self.max_attempts
        return too_many or (self.max_age_s is not None and age_s >= self.max_age_s)


@dataclass(frozen=True, slots=True)
class RetryRules:
    """The policy of every topic: that of its name, else of the first pattern that matches it."""

    default: RetryPolicy = field(default_factory=RetryPolicy)
    topics: tuple[tuple[str, RetryPolicy], ...] = ()

    def of(self, topic: str) -> RetryPolicy:
        """Return the policy of a topic."""
        for pattern, policy in self.topics:
            if pattern == topic:
                return policy
        for pattern, policy in self.topics:
            if fnmatch.fnmatchcase(topic, pattern):
                return policy
        return self.default

    def shadowed(self) -> list[tuple[str, str]]:
        """Return the patterns that are never used, each with the earlier one that takes its topics.

        >>> rule = RetryPolicy()
        >>> RetryRules(topics=(("pay*", rule), ("payments.*", rule), ("*", rule))).shadowed()
        [('payments.*', 'pay*')]
        """
        patterns = [pattern for pattern, _ in self.topics if _is_pattern(pattern)]
        return [
            (pattern, earlier)
            for number, pattern in enumerate(patterns)
            for earlier in [next((e for e in patterns[:number] if _takes(e, pattern)), None)]
            if earlier is not None
        ]

    def shown(self) -> list[tuple[str, object]]:
        """Return name and value of every setting that is not the default's."""
        policies = [("retry", self.default, RetryPolicy())]
        policies += [(f"retry.topics.{name}", policy, self.default) for name, policy in self.topics]
        return [
            (f"{place}.{one.name}", getattr(policy, one.name))
            for place, policy, base in policies
            for one in fields(RetryPolicy)
            if getattr(policy, one.name) != getattr(base, one.name)
        ]


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?[")


def _takes(pattern: str, other: str) -> bool:
    """Return whether all that matches `other` matches `pattern` too, as far as examples tell."""
    if "[" in other:
        return False
    fillings = (("", "q"), ("z", "z"), ("qz-7.k", "_"))
    examples = [other.replace("*", many).replace("?", one) for many, one in fillings]
    return all(fnmatch.fnmatchcase(example, pattern) for example in examples)


def read_retry(table: object) -> RetryRules:
    """Return the rules that the table [retry] holds. Raises ConfigurationError."""
    values = dict(_table("[retry]", table))
    topics = _table("[retry.topics]", values.pop("topics", {}))
    default = _policy("[retry]", RetryPolicy(), values)
    return RetryRules(
        default,
        tuple(
            (name, _policy(f'[retry.topics."{name}"]', default, entry))
            for name, entry in topics.items()
        ),
    )


def _policy(where: str, base: RetryPolicy, values: object) -> RetryPolicy:
    known = [one.name for one in fields(RetryPolicy)]
    given = _table(where, values)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
            raise ConfigurationError(f"{where}: unknown setting {name!r}{hint}")
    try:
        return replace(base, **{name: _never(value) for name, value in given.items()})
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _never(value: Any) -> Any:
    """Return a value of TOML, which has no word for nothing."""
    return None if value == "never" else value


def _table(where: str, table: object) -> Mapping[str, Any]:
    if not isinstance(table, Mapping):
        raise ConfigurationError(f"{where} must be a table, not {table!r}")
    return cast("Mapping[str, Any]", table)


def _check_seconds(name: str, value: object) -> None:
    if value is None and name == "max_age_s":
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < cast("float", value) < math.inf:
        raise ConfigurationError(f"{name} = {value!r} is not a number of seconds greater than 0")


def _check_attempts(value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ConfigurationError(
            f'max_attempts = {value!r} is not a number of attempts: use 1 or more, or "never" to '
            "try for ever"
        )
