"""How data is printed: tables for people, JSON for programs, both on stdout."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence


def print_json(schema: str, **data: object) -> None:
    """Print an object; `schema` names its shape and that shape's version."""
    document = {"schema": schema, **data}
    click.echo(json.dumps(document, ensure_ascii=not _shows_unicode(), indent=2))


def _shows_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print columns, as wide as they need to be."""
    cells = [[*header], *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def say(text: str) -> None:
    """Print words, on stderr: stdout is for data."""
    click.echo(text, err=True)


def duration(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> duration(0.25), duration(75), duration(7300)
    ('0.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
