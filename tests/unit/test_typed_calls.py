"""Type checkers see what topics take and give, and what the test helpers do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Files with calls, and how many lines of each end with `# wrong`.
CALLS = {"tests/payloads/typed_calls.py": 12, "tests/testing/typed_calls.py": 6}


def test_mypy_refuses_what_is_wrong_and_nothing_else() -> None:
    done = _run("mypy", "--strict", "--no-error-summary", *CALLS)

    found = re.findall(r"^(\S+):(\d+): error", done.stdout, re.MULTILINE)
    assert {(path, int(line)) for path, line in found} == _wrong_lines(), done.stdout + done.stderr


def test_pyright_refuses_what_is_wrong_and_nothing_else() -> None:
    done = _run("pyright", "--outputjson", "--pythonpath", sys.executable, *CALLS)

    report = json.loads(done.stdout)["generalDiagnostics"]
    errors = [each for each in report if each["severity"] == "error"]
    assert {_place(each) for each in errors} == _wrong_lines(), errors


def _place(error: dict[str, dict[str, dict[str, int]]]) -> tuple[str, int]:
    path = Path(str(error["file"])).relative_to(ROOT)
    return str(path), error["range"]["start"]["line"] + 1


def _wrong_lines() -> set[tuple[str, int]]:
    wrong: set[tuple[str, int]] = set()
    for path, count in CALLS.items():
        lines = (ROOT / path).read_text().splitlines()
        found = {(path, number) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
        assert len(found) == count
        wrong |= found
    return wrong


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, capture_output=True, text=True
    )
