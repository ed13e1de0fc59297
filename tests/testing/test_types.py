"""Type checkers agree on what the test helpers take and give."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALLS = Path(__file__).with_name("typed_calls.py")


def test_mypy_refuses_what_is_wrong_and_nothing_else() -> None:
    done = _run("mypy", "--strict", "--no-error-summary", str(CALLS))

    found = {int(line) for line in re.findall(rf"{CALLS.name}:(\d+): error", done.stdout)}
    assert found == _wrong_lines(), done.stdout + done.stderr


def test_pyright_refuses_what_is_wrong_and_nothing_else() -> None:
    done = _run("pyright", "--outputjson", "--pythonpath", sys.executable, str(CALLS))

    report = json.loads(done.stdout)["generalDiagnostics"]
    errors = [each for each in report if each["severity"] == "error"]
    found = {each["range"]["start"]["line"] + 1 for each in errors}
    assert found == _wrong_lines(), errors


def _wrong_lines() -> set[int]:
    lines = CALLS.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
    assert len(wrong) == 6
    return wrong


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True
    )
