"""Run a server as a child and end it when the process that asked for it is gone.

A program of its own, without imports from this package: `python guard.py ORDER`, ORDER being
JSON. It prints the server's process id and ends with the server. However the tests end, also
by SIGKILL, their servers end too: the guard sees its parent change, and the kernel kills the
server should the guard itself be killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
LOOK_FOR_PARENT_EVERY = 0.5  # seconds
PATIENCE = 10.0  # seconds for an orderly end


def main() -> int:
    """Run the server until it ends; return its exit code."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    server = start(order)
    print(server.pid, flush=True)
    orphaned = threading.Event()
    threading.Thread(target=watch_parent, args=(order, server, orphaned), daemon=True).start()
    code = server.wait()
    if orphaned.is_set():
        shutil.rmtree(order["directory"], ignore_errors=True)
    return code


def start(order: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the server, as another user where the order names one."""
    # The kernel ties the signal to the *thread* that forked: this is the main thread, which
    # lives as long as the guard. A change of user clears it, and preexec_fn comes after that.
    with Path(order["log"]).open("ab") as log:
        return subprocess.Popen(
            order["command"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=order["directory"],
            preexec_fn=die_with_parent,  # noqa: PLW1509 - no other thread runs in this process yet
            **order["account"],
        )


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies, where the kernel can."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch_parent(
    order: dict[str, Any], server: subprocess.Popen[bytes], orphaned: threading.Event
) -> None:
    """End the server once the parent is gone: first as the order says, then by SIGKILL."""
    while os.getppid() == order["parent"]:
        time.sleep(LOOK_FOR_PARENT_EVERY)
    orphaned.set()
    for number in (order["orphan_signal"], signal.SIGCONT):  # a paused server must go on to end
        send(server, number)
    time.sleep(PATIENCE)
    send(server, signal.SIGKILL)


def send(server: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal unless the server has just ended."""
    with contextlib.suppress(ProcessLookupError):
        server.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
