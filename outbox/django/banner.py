"""What the admin says above its lists: do messages wait, and does somebody deliver them?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from django.utils import timezone
from django.utils.timesince import timesince

from outbox.store.base import RelayStatus

#: Seconds after which messages that wait deserve a word although a relay serves them.
LATE_S = 60.0

Level = Literal["error", "warning", "success"]


@dataclass(frozen=True, slots=True)
class Line:
    """One sentence, and how grave it is, in the words of Django's messages."""

    level: Level
    text: str


def lines(states: Iterable[RelayStatus]) -> list[Line]:
    """Return a line for each relay name and lane."""
    return [_line(state) for state in states] or [
        Line("error", "There is no relay name, so nobody delivers messages.")
    ]


def is_served(state: RelayStatus) -> bool:
    """Say whether a process holds the lane now."""
    return state.owner is not None and (state.lease_seconds or 0.0) > 0


def waiting(state: RelayStatus) -> str:
    """Return how many messages wait: exactly, or about."""
    return f"{'' if state.lag_is_exact else 'about '}{state.lag_messages}"


def age(seconds: float | None) -> str:
    """Return a time for people."""
    if seconds is None:
        return "-"
    if seconds < 120:  # Django's words begin with minutes
        return f"{seconds:.0f} s"
    return timesince(timezone.now() - timedelta(seconds=seconds))


def _line(state: RelayStatus) -> Line:
    who = f"Relay {state.relay}" + ("" if state.lane == "default" else f", lane {state.lane}")
    if not state.lag_messages:
        return Line("success", f"{who}: everything is delivered.")
    what = f"{who}: {waiting(state)} waiting, the oldest for {age(state.lag_seconds)}."
    if not is_served(state):
        name = "" if state.relay == "default" else f" --name {state.relay}"
        text = f"{what} No process delivers them; start one: manage.py outbox_relay{name}"
        return Line("error", text)
    late = (state.lag_seconds or 0.0) > LATE_S
    return Line("warning" if late else "success", f"{what} {state.owner} delivers them.")
