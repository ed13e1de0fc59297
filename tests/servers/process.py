"""A server's process: started under a guard, so that it never outlives the tests."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.availability import ServerFailedError
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class Account:
    """The user a server runs as."""

    name: str

    @property
    def arguments(self) -> dict[str, object]:
        """What `subprocess.Popen` takes."""
        entry = pwd.getpwnam(self.name)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def owns(self, path: Path) -> None:
        """Make this user the owner of one path."""
        entry = pwd.getpwnam(self.name)
        os.chown(path, entry.pw_uid, entry.pw_gid)


@dataclass
class ServerProcess:
    """One run of a server in the foreground; `directory` is also removed if the tests die."""

    command: list[str]
    directory: Path
    log: Path
    account: Account | None = None
    orphan_signal: int = signal.SIGKILL
    pid: int = field(init=False)
    _guard: subprocess.Popen[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A session of its own keeps Ctrl-C away from the server until the fixtures stop it.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), self._order()],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        with self._guard.stdout as answer:
            pid = answer.readline()
        if not pid:
            self._guard.wait()
            raise ServerFailedError(f"could not run {self.command[0]}")
        self.pid = int(pid)

    def _order(self) -> str:
        return json.dumps(
            {
                "command": self.command,
                "directory": str(self.directory),
                "log": str(self.log),
                "account": self.account.arguments if self.account else {},
                "orphan_signal": self.orphan_signal,
                "parent": os.getpid(),
            }
        )

    @property
    def running(self) -> bool:
        """Whether the server's main process lives."""
        return self._guard.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to the server's main process, if it lives."""
        # The process id cannot belong to somebody else: the guard ends when it has reaped it.
        if self.running:
            os.kill(self.pid, number)

    def wait_until(self, ready: Callable[[], bool], *, what: str, timeout: float) -> None:
        """Wait until the server answers; ServerFailedError, with its log's end, if it does not."""
        try:
            wait_until(lambda: ready() or self._gone(what), what=what, timeout=timeout)
        except AssertionError as late:
            raise ServerFailedError(f"{late}; {self.tail()}") from None

    def _gone(self, what: str) -> bool:
        if not self.running:
            raise ServerFailedError(f"{what} ended with {self._guard.returncode}; {self.tail()}")
        return False

    def end(self, number: int, *, patience: float) -> None:
        """Send a signal and wait for the end; ServerFailedError after `patience` seconds."""
        self.send(number)
        try:
            self._guard.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerFailedError(
                f"{self.command[0]} did not end within {patience} s\n{self.tail()}"
            ) from None

    def kill(self) -> None:
        """SIGKILL the main process and its children, and wait until all are gone."""
        self.send(signal.SIGSTOP)  # or it could start another child while they are listed
        family = [self.pid, *children(self.pid)] if self.running else []
        self.send(signal.SIGKILL)
        for pid in family[1:]:
            _kill(pid)
        self._guard.wait()
        wait_until(lambda: not any(map(alive, family)), what=f"the end of processes {family}")

    def tail(self, lines: int = 30) -> str:
        """Return the end of the server's log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(["the server's log ends:", *text.splitlines()[-lines:]])


def children(parent: int) -> list[int]:
    """Return the direct children of a process (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        state = process_state(int(entry.name))
        if state and int(state[1]) == parent:
            found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie (Linux)."""
    state = process_state(pid)
    return bool(state) and state[0] != "Z"


def process_state(pid: int) -> list[str]:
    """Return state and parent of a process, nothing for one that is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()[:2]  # the name before it may hold spaces and brackets


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
