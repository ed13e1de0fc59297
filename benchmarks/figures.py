"""Figures in the documentation, checked against the newest results, or set by them.

A figure that follows a comment such as

    <!-- benchmark: B1 drain, at-least-once: ratio -->0.81

is that of the row whose number and beginning are named: its `ratio`, `ours` or `baseline`.

`python -m benchmarks.figures` says which figures differ, `--write` sets them, `--table` prints a
table of all rows with such comments.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import results
from outbox.bench.result import Goal, figure

ROOT = Path(__file__).parent.parent

_MARKED = re.compile(
    r"(?P<mark><!-- benchmark: (?P<id>B\d+[a-z]?) ?(?P<what>[^:>]*?)"
    r"(: (?P<field>ratio|ours|baseline))? -->[ *~]*)"
    r"(?P<figure>[0-9][0-9.,]*[0-9]|[0-9]|…)"
)
_MARK = re.compile(r"<!-- benchmark\b")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="set the figures that differ")
    parser.add_argument("--table", action="store_true", help="print a table in Markdown")
    arguments = parser.parse_args()
    if arguments.table:
        path = results.newest()
        sys.exit("there are no results" if path is None else print(table(results.read(path))))
    wrong = [problem for page in pages() for problem in check(page, write=arguments.write)]
    print("\n".join(wrong) or "all figures are those of the newest results")
    sys.exit(1 if wrong and not arguments.write else 0)


def pages() -> list[Path]:
    """Return all pages of the documentation."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


def check(page: Path, *, write: bool = False) -> Iterator[str]:
    """Return a sentence for each figure of a page that is not that of the newest results."""
    text = _without_code(page.read_text("utf-8"))
    if not _MARK.search(text):
        return
    path = results.newest()
    if path is None:
        yield f"{page.name}: figures of benchmarks are marked, and there are no results"
        return
    rows = list(results.rows(results.read(path)))
    yield from differences(text, rows, page.name)
    if write:
        page.write_text(corrected(page.read_text("utf-8"), rows), "utf-8")


def differences(text: str, rows: list[dict[str, Any]], where: str) -> Iterator[str]:
    """Return a sentence for each marked figure that differs, or has no row."""
    found = list(_MARKED.finditer(text))
    for mark in _MARK.finditer(text):
        if mark.start() not in {each.start() for each in found}:
            near = text[mark.start() : mark.start() + 60].splitlines()[0]
            yield f"{where}: this mark is not understood, or has no figure behind it: {near}"
    for each in found:
        right = _right(each, rows)
        if right is None:
            yield f"{where}: no row, or several, for {each['mark'].strip()}"
        elif each["figure"] != right:
            yield f"{where}: {each['mark'].strip()} says {each['figure']} and should say {right}"


def corrected(text: str, rows: list[dict[str, Any]]) -> str:
    """Return the text with the figures of the rows."""
    return _MARKED.sub(lambda each: each["mark"] + (_right(each, rows) or each["figure"]), text)


def table(data: dict[str, Any]) -> str:
    """Return a table of a whole run, each figure with its mark."""
    lines = ["| | what | ours | against | ratio | goal |", "|---|---|---|---|---|---|"]
    for row in results.rows(data):
        against = "" if row["than"] is None else f"{row['than']}: {_cell(row, 'baseline')}"
        goal = row["goal"] and Goal(**row["goal"])
        ours = f"{_cell(row, 'ours')} {row['unit']}"
        columns = (row["id"], row["what"], ours, against, _cell(row, "ratio"), goal or "")
        lines.append(f"| {' | '.join(map(str, columns))} |")
    return "\n".join(lines)


def _cell(row: dict[str, Any], field: str) -> str:
    if row[field] is None:
        return ""
    return f"<!-- benchmark: {row['id']} {row['what']}: {field} -->{figure(row[field])}"


def _right(mark: re.Match[str], rows: list[dict[str, Any]]) -> str | None:
    of_id = [row for row in rows if row["id"] == mark["id"]]
    # The whole of a row's name may be how another one begins.
    named = [row for row in of_id if row["what"] == mark["what"]] or [
        row for row in of_id if row["what"].startswith(mark["what"])
    ]
    return figure(named[0][mark["field"] or "ratio"]) if len(named) == 1 else None


def _without_code(text: str) -> str:
    """Return a page without its examples, in which a mark is none."""
    return re.sub(r"^```.*?^```|^    .*?$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    main()
