"""What a benchmark makes of its repetitions."""

from __future__ import annotations

import doctest
import json

import pytest

from outbox.bench import result
from outbox.bench.result import Goal, Repetition, Row, cells, lines
from outbox.bench.short import unreached


def row(*pairs: tuple[float, float | None], goal: Goal | None = None) -> Row:
    return Row("B1", "drain", "messages/s", "a loop", [Repetition(*pair) for pair in pairs], goal)


def test_the_ratio_is_the_median_of_the_repetitions_ratios() -> None:
    """A machine that grows slower changes both of a repetition, and not their ratio."""
    found = row((50.0, 100.0), (80.0, 100.0), (9.0, 10.0))
    assert found.ratio == 0.8
    assert found.ours == 50.0
    assert found.baseline == 100.0


@pytest.mark.parametrize(
    ("kind", "of", "met"),
    [
        ("at least", "ratio", True),
        ("at most", "ratio", False),
        ("at least", "ours", True),
        ("at most", "ours", False),
    ],
)
def test_a_goal_bounds_the_ratio_or_ours_from_one_side(kind: str, of: str, met: bool) -> None:
    bound = 0.79 if of == "ratio" else 79.0
    assert row((80.0, 100.0), goal=Goal(bound, kind, of)).met is met  # type: ignore[arg-type]


def test_exactly_the_bound_is_enough() -> None:
    assert row((80.0, 100.0), goal=Goal(0.8, "at least")).met is True
    assert row((80.0, 100.0), goal=Goal(0.8, "at most")).met is True


def test_what_has_no_baseline_has_no_ratio_and_no_verdict_on_it() -> None:
    found = row((80.0, None), goal=Goal(0.8, "at least"))
    assert (found.ratio, found.baseline, found.met) == (None, None, None)
    assert row((80.0, None)).met is None


def test_data_can_be_written_as_json_and_tells_each_repetition() -> None:
    found = row((80.0, 100.0), (90.0, None), goal=Goal(0.8, "at least"))
    data = json.loads(json.dumps(found.as_data()))
    assert data["goal"] == {"bound": 0.8, "kind": "at least", "of": "ratio"}
    assert data["met"] is True
    assert data["repetitions"] == [
        {"ours": 80.0, "baseline": 100.0, "ratio": 0.8},
        {"ours": 90.0, "baseline": None, "ratio": None},
    ]


def test_people_read_the_ratio_the_goal_and_the_verdict() -> None:
    found = row((70.0, 100.0), goal=Goal(0.8, "at least"))
    assert cells(found) == ["B1", "drain", "70.0", "100", "messages/s", "0.70", "≥ 0.80", "no"]
    assert list(lines(found))[-1].endswith("ratio 0.70 (goal: ratio ≥ 0.80; not met)")


@pytest.mark.parametrize(("reached", "told"), [(1_000.0, False), (951.0, False), (900.0, True)])
def test_a_rate_that_the_writers_did_not_reach_is_told(reached: float, told: bool) -> None:
    written = [Repetition(5.0, 4.0, {"written_per_second": rate}) for rate in (1_000.0, reached)]
    latency = Row("B4", "latency", "ms", None, written)
    assert ("only 900 of 1000" in (unreached([row((1.0, 2.0)), latency], 1_000) or "")) is told


def test_examples_in_the_docstrings() -> None:
    tried = doctest.testmod(result)
    assert tried.attempted == 2
    assert not tried.failed
