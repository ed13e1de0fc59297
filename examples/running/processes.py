"""Processes that belong together: started, watched, their words prefixed, stopped."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

Say = Callable[[str], None]

#: Seconds that a process has for ending when it is told to.
PATIENCE_S = 20.0

#: A process that dies so often within so many seconds is not started again.
_DEATHS, _WITHIN_S = 5, 20.0

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Plan:
    """A process to run. `vital`: all ends with it; the others are started again.

    `pid_file`: where its process id is written whenever it starts.
    """

    name: str
    command: Sequence[str]
    directory: Path
    variables: Mapping[str, str]
    vital: bool = False
    pid_file: Path | None = None


class Ended(Exception):
    """A process has ended without which the others are of no use."""


@dataclass
class _Running:
    plan: Plan
    process: subprocess.Popen[str]
    reader: threading.Thread
    deaths: list[float] = field(default_factory=list)


class Processes:
    """All processes of the examples. Use it in the main thread, as a context manager."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._running: list[_Running] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def say(self, words: str, name: str = "run") -> None:
        """Write a line, never into the middle of another one."""
        with self._lock:
            self._out.write(f"{name:<16} | {words}\n")
            self._out.flush()

    def run(self, *plans: Plan) -> None:
        """Run commands to their end, at the same time. Raises Ended if one fails."""
        for plan in plans:
            self.start(plan)
        for running in self._running[-len(plans) :]:
            code = running.process.wait()
            running.reader.join()
            if code:
                raise Ended(f"{running.plan.name} ended with code {code}")
            self._running.remove(running)

    def start(self, plan: Plan) -> None:
        """Start a process that goes on until it is told to stop."""
        self._running.append(self._launch(plan))

    def watch(self) -> None:
        """Look once after everybody: start again who died, or raise Ended."""
        for place, running in enumerate(self._running):
            code = running.process.poll()
            if code is not None:
                running.reader.join()
                self._running[place] = self._revive(running, code)

    def stop(self) -> None:
        """Tell everybody to end, at once, and wait; kill who does not."""
        for running in self._running:
            running.process.terminate()
        deadline = time.monotonic() + PATIENCE_S
        for running in self._running:
            try:
                running.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.say(f"did not end within {PATIENCE_S:g} s; killed", running.plan.name)
                running.process.kill()
                running.process.wait()
            running.reader.join()
        self._running.clear()

    def _revive(self, running: _Running, code: int) -> _Running:
        plan, now = running.plan, time.monotonic()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if plan.vital:
            raise Ended(f"{plan.name} {how}")
        deaths = [*(at for at in running.deaths if now - at < _WITHIN_S), now]
        if len(deaths) >= _DEATHS:
            raise Ended(f"{plan.name} {how}, for the {_DEATHS}th time within {_WITHIN_S:g} s")
        self.say(f"{how}; starting it again", plan.name)
        revived = self._launch(plan)
        revived.deaths = deaths
        return revived

    def _launch(self, plan: Plan) -> _Running:
        process = self._start(plan)
        if plan.pid_file is not None:
            plan.pid_file.write_text(f"{process.pid}\n")
        reader = threading.Thread(target=self._tell, args=(plan.name, process), daemon=True)
        reader.start()
        return _Running(plan, process, reader)

    def _start(self, plan: Plan) -> subprocess.Popen[str]:
        return subprocess.Popen(  # noqa: S603 - our own commands
            plan.command,
            cwd=plan.directory,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **plan.variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C is for the one who watches: he tells the others, in his own time.
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one call of a library loaded long ago
        )

    def _tell(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        with process.stdout:
            for line in process.stdout:
                self.say(line.rstrip("\n"), name)


def _end_with_parent() -> None:
    # Should this command be killed, the kernel ends its children. It ties that to the thread that
    # starts them, which is why only the main thread does.
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
