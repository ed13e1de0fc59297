"""What a check is, and what it can say."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from outbox.database import Dialect
    from outbox.doctor.patient import Patient

Group: TypeAlias = Literal["configuration", "database", "log", "relays", "broker", "tracing"]
Outcome: TypeAlias = Literal["ok", "warning", "failed", "skipped"]

#: In the order in which they are shown.
GROUPS: tuple[Group, ...] = ("configuration", "database", "log", "relays", "broker", "tracing")

Facts = TypeVar("Facts")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says: what it found, and what to do about it."""

    outcome: Outcome
    found: str
    advice: str = ""


def fine(found: str) -> Verdict:
    """Say that all is well."""
    return Verdict("ok", found)


def warning(found: str, advice: str) -> Verdict:
    """Say what may go wrong one day."""
    return Verdict("warning", found, advice)


def failed(found: str, advice: str) -> Verdict:
    """Say what is wrong now: messages do not flow, or can be lost."""
    return Verdict("failed", found, advice)


def skipped(reason: str, advice: str = "") -> Verdict:
    """Say why nothing can be said."""
    return Verdict("skipped", reason, advice)


class NotChecked(Exception):
    """There is nothing to check here; the text says why. `advice`: how to have it checked."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at. `id`, `group`, `looks_at` and `advice` make the table in the docs."""

    id: str
    group: Group
    looks_at: str
    advice: str
    examine: Callable[[Patient], list[Verdict]]
    database: Dialect | None = None  # None: every database


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict and the check it comes from."""

    check: str
    group: Group
    outcome: Outcome
    found: str
    advice: str


def check(
    id: str,
    group: Group,
    *,
    looks_at: str,
    advice: str,
    probe: Callable[[Patient], Facts],
    judge: Callable[[Facts], Iterable[Verdict]],
    well: str | Callable[[Facts], str],
    database: Dialect | None = None,
) -> Check:
    """Make a check of a probe, which asks, and a judge, which decides and is pure.

    `well`: what to say where the judge has nothing to say.
    """

    def examine(patient: Patient) -> list[Verdict]:
        facts = probe(patient)
        said = list(judge(facts))
        return said or [fine(well if isinstance(well, str) else well(facts))]

    return Check(id, group, looks_at, advice, examine, database)
