"""Figures of benchmarks that the documentation tells are those of the newest results."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures, results
from benchmarks.__main__ import BENCHMARKS
from tests.docs.markdown import ROOT

ROWS: list[dict[str, Any]] = [
    {"id": "B1", "what": "drain, at-least-once", "ours": 1e5, "baseline": 1.2e5, "ratio": 0.8349},
    {"id": "B1", "what": "drain, exactly-once", "ours": 9e4, "baseline": 1.2e5, "ratio": 0.75},
    {"id": "B12", "what": "start", "ours": 0.61, "baseline": 0.3, "ratio": 2.0},
]


def problems(text: str) -> list[str]:
    return list(figures.differences(text, ROWS, "page"))


@pytest.mark.parametrize("page", figures.pages(), ids=lambda page: page.name)
def test_figures_that_are_marked_are_those_of_the_newest_results(page: Path) -> None:
    assert list(figures.check(page)) == []


def test_results_that_are_kept_are_of_whole_runs() -> None:
    for path in results.DIRECTORY.glob("*"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d[a-z]?\.json", path.name)
        data = results.read(path)
        assert not data["quick"]
        assert [each["id"] for each in data["benchmarks"]] == [each.id for each in BENCHMARKS]


def test_every_benchmark_has_a_program_that_the_readme_tells() -> None:
    told = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for each in BENCHMARKS:
        path = ROOT / "benchmarks" / f"{each.module.replace('.', '/')}.py"
        assert path.exists()
        assert f"python -m benchmarks.{each.module}`" in told


@pytest.mark.parametrize("module", [each.module for each in BENCHMARKS])
def test_every_program_can_be_imported_and_takes_the_options_of_a_quick_run(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = importlib.import_module(f"benchmarks.{module}")
    monkeypatch.setattr("sys.argv", [module, "--help"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 0
    told = capsys.readouterr().out
    (quick,) = [each.quick for each in BENCHMARKS if each.module == module]
    assert [option for option in quick if option.partition("=")[0] not in told] == []
    assert "--json" in told


# The check itself


def test_a_figure_that_is_right_is_let_be() -> None:
    assert problems("reached **<!-- benchmark: B1 drain, at-least-once: ratio --> 0.83** of") == []
    assert problems("| <!-- benchmark: B1 drain, at-least-once: ours -->100,000 | x |") == []
    assert problems("starts in <!-- benchmark: B12: ours -->0.61 s") == []


def test_a_figure_that_differs_is_told_with_the_right_one() -> None:
    (problem,) = problems("<!-- benchmark: B1 drain, exactly-once -->0.80")
    assert problem.endswith("says 0.80 and should say 0.75")


def test_a_mark_that_fits_several_rows_or_none_is_told() -> None:
    assert "no row, or several" in problems("<!-- benchmark: B1 drain -->0.80")[0]
    assert "no row, or several" in problems("<!-- benchmark: B9 batch -->0.80")[0]
    assert "no row, or several" in problems("<!-- benchmark: B1 start -->0.80")[0]


def test_a_mark_with_the_whole_of_a_name_is_of_that_row() -> None:
    longer = [{**ROWS[0], "what": "drain, at-least-once, twice", "ratio": 0.1}, *ROWS]
    text = "<!-- benchmark: B1 drain, at-least-once -->0.83"
    assert list(figures.differences(text, longer, "page")) == []


@pytest.mark.parametrize(
    "text",
    [
        "<!-- benchmark: B1 drain, exactly-once: speed -->0.75",
        "<!-- benchmark B12 -->2.00",
        "<!-- benchmark: B12 -->about 2.00",
    ],
)
def test_a_mark_that_is_not_understood_is_told(text: str) -> None:
    assert "not understood" in problems(text)[0]


def test_figures_can_be_set() -> None:
    text = "<!-- benchmark: B12 -->9.99 and <!-- benchmark: B1 drain, at-least-once: ours -->…, 7"
    assert figures.corrected(text, ROWS) == (
        "<!-- benchmark: B12 -->2.00 and "
        "<!-- benchmark: B1 drain, at-least-once: ours -->100,000, 7"
    )


def test_the_table_of_all_rows_passes_the_check() -> None:
    told = {"unit": "messages/s", "than": "a loop", "goal": None}
    rows = [{**told, **row} for row in ROWS]
    text = figures.table({"benchmarks": [{"rows": rows}]})
    assert list(figures.differences(text, rows, "page")) == []
    assert text.count("<!-- benchmark: ") == 9
