"""Where rivals come from: package managers' own clients, into a cache outside the repository."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

TIMEOUT = 900.0  # seconds for one download


class RivalUnavailable(Exception):
    """A rival cannot be had on this machine; the sentence says why."""


def cache() -> Path:
    """Return where everything is kept: OUTBOX_BENCH_CACHE, or in the user's cache directory."""
    chosen = os.environ.get("OUTBOX_BENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(base) / "outbox-relay-benchmarks"


def jars(pom: Path) -> Path:
    """Return the directory with all jars that a pom names."""

    def fetch(target: Path) -> None:
        maven = _required("mvn", "install Maven (Debian's `maven`)")
        output = f"-DoutputDirectory={target}"
        _run([maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", output])

    return _made("jars", pom.read_bytes(), fetch)


def environment(requirements: Path) -> Path:
    """Return the Python of a virtual environment that holds these requirements and no more."""

    def make(target: Path) -> None:
        _run([sys.executable, "-m", "venv", str(target)])
        _run([str(target / "bin" / "python"), "-m", "pip", "install", "-r", str(requirements)])

    key = requirements.read_bytes() + sys.version.encode()
    return _made("python", key, make) / "bin" / "python"


def program(source: Path) -> Path:
    """Return what `go build` makes of a module whose versions go.mod and go.sum pin."""
    files = sorted([*source.glob("*.go"), source / "go.mod", source / "go.sum"])

    def build(target: Path) -> None:
        go = _required("go", "install Go")
        target.mkdir()
        _run([go, "build", "-o", str(target / "program"), "."], directory=source)

    return _made("go", b"".join(file.read_bytes() for file in files), build) / "program"


def _made(kind: str, key: bytes, make: Callable[[Path], None]) -> Path:
    target = cache() / f"{kind}-{hashlib.sha256(key).hexdigest()[:12]}"
    complete = target / ".complete"
    if not complete.exists():
        # In place and not renamed: the programs of a virtual environment know where they are.
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        make(target)
        complete.touch()
    return target


def _required(name: str, hint: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RivalUnavailable(f"`{name}` is not installed: {hint}")
    return found


def _run(command: list[str], directory: Path | None = None) -> None:
    with tempfile.TemporaryFile("w+") as said:
        try:
            subprocess.run(
                command,
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                check=True,
                timeout=TIMEOUT,
            )
        except (OSError, subprocess.SubprocessError) as failure:
            said.seek(0)
            end = "\n".join(said.read().splitlines()[-8:])
            raise RivalUnavailable(f"{Path(command[0]).name} failed: {failure}\n{end}") from failure
