"""An environment with the other supported line of Django than the one installed here."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import django

from tests.django.project import ROOT
from tests.servers.availability import ServerUnavailableError

#: The long-term line runs on the oldest Python we support, the newest needs a newer one.
LONG_TERM, NEWEST = "django>=5.2,<5.3", "django>=6.1"
NEWEST_NEEDS = (3, 12)

_NAMES = tuple(f"python3.{minor}" for minor in range(15, NEWEST_NEEDS[1] - 1, -1))


def other_line() -> tuple[str, Path]:
    """Return the requirement of the other line, and an interpreter for it."""
    if django.VERSION >= (6,):
        return LONG_TERM, Path(sys.executable)
    return NEWEST, _newest_interpreter()


def _newest_interpreter() -> Path:
    found = {version: path for path in _candidates() if (version := _version(path))}
    suitable = [version for version in found if version >= NEWEST_NEEDS]
    if not suitable:
        raise ServerUnavailableError("the newest Django needs Python 3.12 or later; none was found")
    return found[max(suitable)]


def _candidates() -> Iterator[Path]:
    yield Path(sys.executable)
    for name in _NAMES:
        if path := shutil.which(name):
            yield Path(path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob("versions/*/bin/python3"))
    # Version managers keep interpreters side by side.
    yield from sorted(Path(sys.base_prefix).parent.glob("*/bin/python3"))


def _version(python: Path) -> tuple[int, ...] | None:
    """Return the version, or None for what is no interpreter that can make environments."""
    code = "import ensurepip, sys, venv; print(*sys.version_info[:3])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else None


def environment(requirement: str, python: Path) -> Path:
    """Return the interpreter of an environment that is kept in `.cache` until anything changes."""
    wanted = f"{requirement} {_version(python)} {(ROOT / 'pyproject.toml').read_text()}"
    place = ROOT / ".cache" / f"django-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    with _one_at_a_time(place.with_suffix(".lock")):
        if not (place / "ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            _make(place, requirement, python)
            (place / "ready").touch()
    return place / "bin" / "python"


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(place: Path, requirement: str, python: Path) -> None:
    _run([python, "-m", "venv", place])
    product = f"{ROOT}[relay,postgresql]"
    install = [place / "bin" / "python", "-m", "pip", "install", "-q"]
    _run([*install, "-e", product, requirement, *_test_runner()])


def _test_runner() -> list[str]:
    """Return pytest and all its plugins that the project's settings speak of."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted: list[str] = project["optional-dependencies"]["dev"]
    return [requirement for requirement in wanted if requirement.startswith("pytest")]


def _run(command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
