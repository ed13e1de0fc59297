"""All benchmarks, one after the other, and one table of what they found.

Each runs in a process of its own, with servers of its own unless OUTBOX_BENCH_DATABASE_URL and
OUTBOX_BENCH_KAFKA_BOOTSTRAP name some. Run it on a machine that does nothing else. One that fails
is shown as such, and the others go on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import results
from outbox.bench.result import HEADER, Goal, Repetition, Row, cells
from outbox.version import __version__


@dataclass(frozen=True)
class Benchmark:
    """A program: what it is given in a whole run and in a quick one, and how long it may take."""

    id: str
    module: str
    quick: tuple[str, ...]
    minutes: float
    full: tuple[str, ...] = ()


BENCHMARKS = (
    Benchmark("B1", "drain", ("--messages=50000", "--repetitions=2"), 15),
    Benchmark("B2", "rivals.debezium", ("--messages=50000", "--repetitions=1"), 30),
    Benchmark("B3", "rivals.txoutbox", ("--messages=20000", "--repetitions=1"), 30),
    Benchmark("B4", "latency", ("--seconds=5", "--repetitions=1", "--lone=20"), 30),
    Benchmark("B5", "adding", ("--messages=200", "--repetitions=10"), 10),
    Benchmark("B6", "writers", ("--seconds=5", "--repetitions=2"), 15),
    Benchmark("B6n", "notifying", ("--seconds=5", "--repetitions=2"), 15),
    Benchmark("B7", "memory", ("--messages=50000", "--large=100"), 30),
    Benchmark("B8", "long_load", ("--minutes=3", "--retention=60", "--rate=200"), 45),
    Benchmark("B9", "big_log", ("--rows=500000", "--repetitions=20"), 45),
    Benchmark("B10", "idle", ("--seconds=10", "--repetitions=2"), 15),
    Benchmark("B11", "inbox", ("--messages=2000", "--batched=20000", "--repetitions=2"), 30),
    Benchmark("B12", "start", ("--repetitions=3",), 10),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small: minutes, and no results")
    parser.add_argument(
        "--only", nargs="+", metavar="ID", choices=[each.id for each in BENCHMARKS], help="B1 …"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="write all results here; those of others that are in the file stay",
    )
    arguments = parser.parse_args()
    if arguments.json and arguments.json.exists():
        _check_results(parser, arguments.json)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    chosen = [each for each in BENCHMARKS if not arguments.only or each.id in arguments.only]
    found = []
    for benchmark in chosen:
        found.append(_run(benchmark, quick=arguments.quick))
        if arguments.json:
            _write(arguments.json, found, quick=arguments.quick)
    _print_table(found)
    sys.exit(0 if all(each["unavailable"] is None for each in found) else 1)


def _check_results(parser: argparse.ArgumentParser, path: Path) -> None:
    """End here, and not after hours, if what is found cannot be added to the file."""
    try:
        results.read(path)
    except (OSError, ValueError) as error:
        parser.error(
            f"--json: nothing can be added to {path}: {error}. "
            "Give a file of an earlier run, or one that is not there"
        )


def _run(benchmark: Benchmark, *, quick: bool) -> dict[str, Any]:
    """Run one, let it say what it says, and return what it found."""
    module = f"benchmarks.{benchmark.module}"
    if importlib.util.find_spec(module) is None:
        return _nothing(benchmark, f"there is no {module}")
    given = benchmark.quick if quick else benchmark.full
    began = time.monotonic()
    print(f"\n{datetime.now(UTC):%H:%M:%S} {benchmark.id} {module} {' '.join(given)}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "result.json")
        command = [sys.executable, "-m", module, *given, "--json", str(path)]
        reason = _ended(subprocess.Popen(command), benchmark.minutes * 60)
        if reason or not path.exists():
            return _nothing(benchmark, reason or "it wrote no result")
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return {**result, "took_s": round(time.monotonic() - began), "arguments": list(given)}


def _ended(process: subprocess.Popen[bytes], timeout_s: float) -> str | None:
    """Wait for the end; return what went wrong."""
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"it took longer than {timeout_s / 60:g} minutes"
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    return f"it ended with {code}" if code else None


def _nothing(benchmark: Benchmark, reason: str) -> dict[str, Any]:
    return {"id": benchmark.id, "conditions": {}, "rows": [], "figures": {}, "unavailable": reason}


def _write(path: Path, found: list[dict[str, Any]], *, quick: bool) -> None:
    """Write what was found, and keep what the file has of others."""
    before = results.read(path) if path.exists() else {"quick": False, "benchmarks": []}
    new = {each["id"]: each for each in [*before["benchmarks"], *found]}
    data = {
        "schema": results.SCHEMA,
        "outbox_relay": __version__,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick or before["quick"],
        "benchmarks": [new[each.id] for each in BENCHMARKS if each.id in new],
    }
    results.write(path, data)


def _print_table(found: list[dict[str, Any]]) -> None:
    lines = [list(HEADER)]
    for each in found:
        lines += [cells(_row(row)) for row in each["rows"]]
        if each["unavailable"]:
            lines.append([each["id"], f"not measured: {each['unavailable']}", *[""] * 6])
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _row(data: dict[str, Any]) -> Row:
    repetitions = [Repetition(each["ours"], each["baseline"]) for each in data["repetitions"]]
    goal = Goal(**data["goal"]) if data["goal"] else None
    return Row(data["id"], data["what"], data["unit"], data["than"], repetitions, goal)


if __name__ == "__main__":
    main()
