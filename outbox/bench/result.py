"""What a benchmark found: repetitions of ours and of a baseline, their medians, a goal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Goal:
    """What has to be reached: `of` the ratio of ours to the baseline, or of ours alone."""

    bound: float
    kind: Literal["at least", "at most"]
    of: Literal["ratio", "ours"] = "ratio"

    def met(self, value: float) -> bool:
        """Return whether a value reaches the goal."""
        return value >= self.bound if self.kind == "at least" else value <= self.bound

    def __str__(self) -> str:
        sign = "≥" if self.kind == "at least" else "≤"
        return f"{sign} {figure(self.bound)}"


@dataclass(frozen=True, slots=True)
class Repetition:
    """Ours and the baseline, measured one after the other. `more`: what else was seen."""

    ours: float
    baseline: float | None = None
    more: Mapping[str, object] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Return ours to the baseline, where there is one."""
        return self.ours / self.baseline if self.baseline else None


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was measured, `repetitions` times. `than`: what the baseline is."""

    id: str
    what: str
    unit: str
    than: str | None
    repetitions: Sequence[Repetition]
    goal: Goal | None = None

    @property
    def ours(self) -> float:
        """Return the median of ours."""
        return statistics.median(each.ours for each in self.repetitions)

    @property
    def baseline(self) -> float | None:
        """Return the median of the baseline."""
        found = [each.baseline for each in self.repetitions if each.baseline is not None]
        return statistics.median(found) if found else None

    @property
    def ratio(self) -> float | None:
        """Return the median of the repetitions' ratios, which is not the ratio of the medians."""
        found = [each.ratio for each in self.repetitions if each.ratio is not None]
        return statistics.median(found) if found else None

    @property
    def met(self) -> bool | None:
        """Return whether the goal is met; None where there is none, or nothing to judge it by."""
        value = self.ours if self.goal and self.goal.of == "ours" else self.ratio
        return None if self.goal is None or value is None else self.goal.met(value)

    def as_data(self) -> dict[str, object]:
        """Return what a program wants to know."""
        return {
            "id": self.id,
            "what": self.what,
            "unit": self.unit,
            "than": self.than,
            "ours": self.ours,
            "baseline": self.baseline,
            "ratio": self.ratio,
            "goal": None if self.goal is None else asdict(self.goal),
            "met": self.met,
            "repetitions": [
                {
                    "ours": each.ours,
                    "baseline": each.baseline,
                    "ratio": each.ratio,
                    **({"more": dict(each.more)} if each.more else {}),
                }
                for each in self.repetitions
            ],
        }


#: The columns of `cells`.
HEADER = ("", "WHAT", "OURS", "BASELINE", "UNIT", "RATIO", "GOAL", "MET")


def cells(row: Row) -> list[str]:
    """Return a line of a table for people."""
    said = {True: "yes", False: "no", None: "-"}
    goal = "-" if row.goal is None else str(row.goal)
    if row.goal is not None and row.goal.of == "ours":
        goal += f" {row.unit}"
    return [
        row.id,
        row.what,
        figure(row.ours),
        figure(row.baseline),
        row.unit,
        figure(row.ratio),
        goal,
        said[row.met],
    ]


def lines(row: Row) -> Iterator[str]:
    """Return every repetition, the medians and the ratio, in words."""
    than = f", against {row.than}" if row.than else ""
    yield f"{row.id} {row.what}, {row.unit}{than}"
    for each in row.repetitions:
        against = "" if each.baseline is None else f"  baseline {figure(each.baseline):>10}"
        ratio = "" if each.ratio is None else f"  ratio {figure(each.ratio)}"
        more = "".join(f"  {name} {_shown(value)}" for name, value in each.more.items())
        yield f"  ours {figure(each.ours):>10}{against}{ratio}{more}"
    yield f"  median: {_summary(row)}"


def _summary(row: Row) -> str:
    ratio = "" if row.ratio is None else f", ratio {figure(row.ratio)}"
    if row.goal is None:
        return f"{figure(row.ours)} {row.unit}{ratio}"
    met = {True: "met", False: "not met", None: "not judged"}[row.met]
    what = "ratio " if row.goal.of == "ratio" else ""
    return f"{figure(row.ours)} {row.unit}{ratio} (goal: {what}{row.goal}; {met})"


def _shown(value: object) -> str:
    return figure(value) if isinstance(value, float) else str(value)


def figure(value: float | None) -> str:
    """Return a number with as many digits as a measurement deserves.

    >>> figure(123456.7), figure(12.34), figure(0.8149), figure(0.00123), figure(0.0), figure(None)
    ('123,457', '12.3', '0.81', '0.0012', '0', '-')
    """
    if value is None:
        return "-"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed (nearest rank).

    >>> percentile([5.0, 1.0, 2.0, 4.0, 3.0], 0.5), percentile([1.0, 2.0], 0.99)
    (3.0, 2.0)
    """
    ordered = sorted(values)
    rank = -(-len(ordered) * round(share * 10_000) // 10_000)
    return ordered[max(rank, 1) - 1]
