"""What a process has used, where /proc tells it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString, cast

if TYPE_CHECKING:
    import psycopg


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """Return the processor time that processes have used so far; None where nothing tells."""
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    found = [_cpu_ticks(pid) for pid in pids]
    known = [each for each in found if each is not None]
    return sum(known) / ticks if known and len(known) == len(found) else None


def _cpu_ticks(pid: int) -> int | None:
    with suppress(OSError, IndexError, ValueError):
        text = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
        fields = text.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return None


def peak_memory_bytes(pid: int) -> int | None:
    """Return the most that a living process has had in memory; None where nothing tells."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text("ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def backends(connection: psycopg.Connection, application: str) -> list[int]:
    """Return the process ids of a database's sessions by their application name."""
    query: LiteralString = (
        "select pid from pg_stat_activity"
        " where application_name = %s and datname = current_database()"
    )
    rows = cast("list[tuple[int]]", connection.execute(query, (application,)).fetchall())
    return [pid for (pid,) in rows]


def is_pooled(connection: psycopg.Connection) -> bool:
    """Return whether a pooler is in between: it has process ids of its own to tell."""
    row = connection.execute("select pg_backend_pid()").fetchone()
    return row != (connection.info.backend_pid,)


def is_local_server(connection: psycopg.Connection) -> bool:
    """Return whether the database's processes are those that /proc shows here."""
    (pid,) = cast("tuple[int]", connection.execute("select pg_backend_pid()").fetchone())
    with suppress(OSError):
        return b"postgres" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
