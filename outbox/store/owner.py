"""Who holds a lease, told so that another process on the same machine can see that it died."""

from __future__ import annotations

import itertools
import os
import re
import socket
from contextlib import suppress
from pathlib import Path

_FORM = re.compile(r"(?P<host>\S+) pid=(?P<pid>\d+) start=(?P<start>\d+) in=(?P<place>\S+) .*")
_count = itertools.count(1)


def new_owner() -> str:
    """Return a name for a holder of leases in this process, unique in the world.

    Where /proc is at hand it carries the process's id, start time and PID namespace, so that
    `is_certainly_dead` can tell its end. Elsewhere a lease simply runs out.
    """
    pid = os.getpid()
    unique = f"#{next(_count)}-{os.urandom(4).hex()}"
    start = _start_time(pid)
    if start is None:
        return f"{socket.gethostname()} pid={pid} {unique}"
    return f"{socket.gethostname()} pid={pid} start={start} in={_place()} {unique}"


def is_certainly_dead(owner: str) -> bool:
    """Return whether the process that called itself `owner` has ended, beyond doubt.

    False whenever this cannot be known: another machine, another PID namespace, no /proc.
    """
    match = _FORM.fullmatch(owner)
    if match is None or match["place"] == "unknown" or match["place"] != _place():
        return False
    # Machines that were cloned while they ran have the same boot and the same process ids.
    if match["host"] != socket.gethostname():
        return False
    pid = int(match["pid"])
    start = _start_time(pid)
    return start != int(match["start"]) and not (start is None and _is_hidden(pid))


def _is_hidden(pid: int) -> bool:
    """Return whether a process lives of which /proc tells nothing.

    Hardened systems hide the processes of other users (hidepid, ProtectProc); kill still knows.
    """
    try:
        Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        with suppress(PermissionError):
            return _exists(pid)
        return True
    return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _place() -> str:
    """Return the boot and the PID namespace that a process id is meaningful in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return "unknown"


def _start_time(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None if it has ended.

    A process that was killed stays as a zombie until its parent looks: it has ended once no other
    thread of it is left.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
        fields = stat.rpartition(")")[2].split()
        if fields[0] in "ZX" and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1:
            return None
        return int(fields[19])
    except (OSError, IndexError, ValueError):
        return None
