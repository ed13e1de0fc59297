"""Empty environments to install into, and what runs in them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.command import environment


def clean_environment(**variables: str) -> dict[str, str]:
    """Return an environment from which this checkout cannot be imported."""
    kept = environment(**variables)
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        kept.pop(name, None)
    return kept


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and a directory that its programs run in."""

    path: Path
    directory: Path

    @classmethod
    def make(cls, path: Path) -> Environment:
        directory = path.with_name(path.name + "-work")
        directory.mkdir()
        run([sys.executable, "-m", "venv", str(path)], directory)
        return cls(path, directory)

    def __call__(self, program: str, *arguments: str, **variables: str) -> Finished:
        """Run one of its programs."""
        return run([str(self.path / "bin" / program), *arguments], self.directory, **variables)

    def python(self, code: str) -> str:
        """Run a script and return what it prints; it must not fail."""
        done = self("python", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def install(self, what: str) -> None:
        done = self("python", "-m", "pip", "install", "--quiet", what)
        assert done.returncode == 0, done.stderr


Finished = subprocess.CompletedProcess[str]


def run(command: list[str], directory: Path, **variables: str) -> Finished:
    """Run a command to its end."""
    return subprocess.run(
        command,
        cwd=directory,
        env=clean_environment(**variables) | {"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=240,
    )
