"""The heartbeat of a relay's loop, and what it means that it has been still."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

Server = Literal["database", "broker"]

#: No call of the broker's client waits longer for a broker that is away: each has a limit of its
#: own, and so have the lookups of names. One that takes ten minutes hangs.
BROKER_CALL_S = 600.0


@dataclass(frozen=True, slots=True)
class Beat:
    """The last sign of life: how long ago, and in which server's hands the loop has been since."""

    seconds: float
    server: Server | None
    alive: bool


class Pulse:
    """Tells whether a loop goes round. Beaten by one thread, looked at by others.

    Waiting for a server is no death, however long it takes: a database that is frozen, or whose
    standby does not confirm a commit, holds a statement for ever, and a restart mends nothing.
    Connections that are dead are ended by the kernel. What counts is `stall_s` spent in code of
    our own, or a call of the broker's client that its own limits should have ended.
    """

    def __init__(
        self, stall_s: float, broker_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits: dict[Server | None, float] = {
            None: stall_s,
            "broker": max(broker_s, stall_s),
            "database": float("inf"),
        }
        self._clock = clock
        # One attribute, so that who looks from another thread sees both of one moment.
        self._last: tuple[Server | None, float] = (None, clock())

    def waiting(self, server: Server) -> _Wait:
        """Return the context of a call that may wait for a server: each end is a sign of life."""
        return _Wait(self, server)

    def enter(self, server: Server | None) -> Server | None:
        """Note in whose hands the loop is now; return in whose it was."""
        before = self._last[0]
        self._last = (server, self._clock())
        return before

    def look(self) -> Beat:
        """Return the last sign of life."""
        server, at = self._last
        seconds = self._clock() - at
        return Beat(seconds, server, seconds <= self._limits[server])


class _Wait:
    """A call to a server; may be within another."""

    __slots__ = ("_before", "_pulse", "_server")

    def __init__(self, pulse: Pulse, server: Server | None) -> None:
        self._pulse = pulse
        self._server = server
        self._before: Server | None = None

    def __enter__(self) -> None:
        self._before = self._pulse.enter(self._server)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pulse.enter(self._before)
