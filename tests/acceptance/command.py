"""Run `outbox-relay` as its users do: as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

PROGRAM = [sys.executable, "-m", "outbox.cli.main"]
ROOT = str(Path(__file__).parents[2])


def environment(**variables: str) -> dict[str, str]:
    """Return an environment without any setting of ours but the given ones."""
    ours = ("OUTBOX_", "PG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "PYTHONPATH": ROOT, **variables}


@dataclass(frozen=True)
class Done:
    """What a finished command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.out, self.err
        return json.loads(self.out)


class Commands:
    """Runs commands in one directory, against one database."""

    def __init__(self, directory: Path, database_url: str | None = None) -> None:
        self.directory = directory
        self.variables = {"OUTBOX_DATABASE_URL": database_url} if database_url else {}

    def __call__(self, *arguments: str, answer: str = "", **variables: str) -> Done:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            cwd=self.directory,
            env=environment(**self.variables, **variables),
            input=answer,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def start(self, *arguments: str, **variables: str) -> Running:
        """Start a command that goes on until it is told to stop."""
        return Running(
            subprocess.Popen(
                [*PROGRAM, *arguments],
                cwd=self.directory,
                env=environment(**self.variables, **variables),
                stderr=subprocess.PIPE,
                text=True,
            )
        )


class Running:
    """A command that runs; killed at the end of its `with` if it has not ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    def says(self, words: str, *, timeout: float = 30.0) -> None:
        try:
            wait_until(
                lambda: any(words in line for line in self.lines),
                what=f"{words!r} among what it says",
                timeout=timeout,
            )
        except AssertionError as late:
            raise AssertionError(f"{late}: {self.lines}") from None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
