"""The results that are kept in `benchmarks/results/`, one file for each whole run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = "outbox.benchmarks/1"

DIRECTORY = Path(__file__).parent / "results"


def newest(directory: Path = DIRECTORY) -> Path | None:
    """Return the latest file: their names are dates."""
    return max(directory.glob("*.json"), default=None, key=lambda path: path.name)


def read(path: Path) -> dict[str, Any]:
    """Return a whole run."""
    data: dict[str, Any] = json.loads(path.read_text("utf-8"))
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path} is {data.get('schema')!r} and not {SCHEMA!r}")
    return data


def write(path: Path, data: dict[str, Any]) -> None:
    """Write a whole run, each repetition on a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = _REPETITION.sub(
        lambda found: " ".join(found[0].split()).replace("{ ", "{").replace(" }", "}"),
        json.dumps(data, indent=1),
    )
    path.write_text(text + "\n", encoding="utf-8")


_REPETITION = re.compile(r'\{\s+"ours":[^{}]*\}')


def rows(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the rows of all benchmarks of a run."""
    for benchmark in data["benchmarks"]:
        yield from benchmark["rows"]
