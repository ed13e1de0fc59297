"""Take a CREATE TABLE of SQLite apart, whose only description is its text."""

from __future__ import annotations

import re

#: A text, a name in quotes, a comment, what gives structure, or anything between.
_PART = re.compile(r"""'(?:[^']|'')*' | "[^"]*" | --[^\n]* | [(),] | [^'"(),-]+ | -""", re.VERBOSE)

_OF_TABLE = re.compile(r"(check|primary key|unique|foreign key|constraint)\b", re.IGNORECASE)


def take_apart(table: str, sql: str) -> dict[tuple[str, str], str]:
    """Return the table's options, each column and each constraint: (kind, name) to definition."""
    pieces, options = _split(sql)
    described = {("table", table): _one_line(options)}
    for piece in map(_one_line, pieces):
        if _OF_TABLE.match(piece):
            described["constraint", f"{table}.{piece}"] = ""
        else:
            name, _, definition = piece.partition(" ")
            described["column", f"{table}.{name.strip(chr(34))}"] = definition
    return described


def _split(sql: str) -> tuple[list[str], str]:
    """Return what stands between the commas of the outermost parentheses, and what follows them."""
    pieces, depth, after = [""], 0, ""
    for part in _PART.findall(sql):
        depth -= part == ")"
        if part.startswith("--"):
            continue
        if depth == 1 and part == ",":
            pieces.append("")
        elif depth >= 1:
            pieces[-1] += part
        elif pieces[-1] and part != ")":
            after += part
        depth += part == "("
    return pieces, after


def _one_line(text: str) -> str:
    return " ".join(text.split())
