"""Relay processes that begin at once: forked from one that has imported everything.

Run as a program, it forks a process for each line of JSON that it reads, with the arguments of
`outbox-relay` that stand there, and prints the process's id.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.acceptance.command import Commands, Running, environment
from tests.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Nursery:
    """Starts relays, of which there is one at a time, and kills them."""

    def __init__(self, commands: Commands) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.nursery"],
            cwd=commands.directory,
            env=environment(**commands.variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = Running(self._process)

    def start(self, *arguments: str) -> int:
        """Start `outbox-relay run` and return its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(["run", *arguments]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def kill(self, pid: int) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of a relay")  # noqa: PTH110 - no file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.log.__exit__(kind, error, trace)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def main() -> None:
    import outbox.cli.run
    import outbox.publishers.transactional
    import outbox.relay.relay
    import outbox.store.postgresql.store  # noqa: F401 - so that no child has to
    from outbox.cli.main import main as outbox_relay

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        outbox_relay(json.loads(line))


if __name__ == "__main__":
    main()
