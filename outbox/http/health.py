"""What the probes answer, decided from what a monitor has seen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from outbox.metrics.catalogue import IN_FLIGHT, LIMITED
from outbox.metrics.monitor import RelayMonitor, Trouble
from outbox.metrics.pulse import Beat
from outbox.metrics.sample import Sample
from outbox.version import __version__

PROBE_SCHEMA = "outbox.probe/1"
HEALTH_SCHEMA = "outbox.health/1"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all is well, and if not why not."""

    ok: bool
    reason: str | None = None


class Health:
    """Answers for one relay. `stopping`: whether it was told to stop."""

    def __init__(
        self,
        monitor: RelayMonitor,
        stopping: Callable[[], bool],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._monitor = monitor
        self._stopping = stopping
        self._clock = wall_clock

    def live(self) -> Verdict:
        """Return whether the loop goes round; what a restart cannot mend does not count."""
        beat = self._monitor.pulse.look()
        if beat.alive:
            return Verdict(ok=True)
        where = f" (in a call to the {beat.server})" if beat.server else ""
        return Verdict(False, f"the relay's loop has not turned for {beat.seconds:.0f} s{where}")

    def ready(self) -> Verdict:
        """Return whether settings and tables fit, and the relay is not about to end."""
        if self._stopping():
            return Verdict(False, "the relay was told to stop")
        if not self._monitor.schema_fits:
            return Verdict(
                False, "the database has not been reached yet, so the tables could not be checked"
            )
        return Verdict(ok=True)

    def whole(self) -> tuple[bool, dict[str, object]]:
        """Return whether messages flow, or would if there were any, and everything known."""
        monitor, beat, now = self._monitor, self._monitor.pulse.look(), self._clock()
        live, ready, trouble = self.live(), self.ready(), monitor.trouble
        healthy = live.ok and ready.ok and trouble is None
        return healthy, {
            "healthy": healthy,
            "live": asdict(live),
            "ready": asdict(ready),
            "version": __version__,
            "relay": monitor.relay,
            "state": self._state(),
            "lanes": monitor.lanes,
            "paused": sorted(monitor.paused_lanes),
            "closed_topics": sorted(monitor.closed_topics),
            "delivery": monitor.delivery,
            "limited": bool(monitor.figures.value(LIMITED)),
            "trouble": _trouble(trouble, now),
            "loop": _loop(beat),
            "in_flight_messages": int(monitor.figures.value(IN_FLIGHT) or 0),
            "last_progress": _moment(monitor.progress_at),
            "lag": _lag(monitor.sample, now),
            "held": None if monitor.sample is None else asdict(monitor.sample.held),
        }

    def _state(self) -> str:
        monitor = self._monitor
        if self._stopping():
            return "stopping"
        all_paused = monitor.paused_lanes.issuperset(monitor.lanes)
        return "paused" if monitor.lanes and all_paused else monitor.state


def _trouble(trouble: Trouble | None, now: float) -> dict[str, object] | None:
    if trouble is None:
        return None
    return {
        "waiting_for": trouble.cause,
        "reason": trouble.reason,
        "since": _moment(trouble.since),
        "seconds": round(now - trouble.since, 3),
    }


def _loop(beat: Beat) -> dict[str, object]:
    return {"in_call_to": beat.server, "seconds": round(beat.seconds, 3)}


def _lag(sample: Sample | None, now: float) -> dict[str, object] | None:
    """Return the backlog as it was last sampled; None on standby, where another process knows."""
    if sample is None:
        return None
    return {
        "messages": sample.pending,
        "is_exact": sample.pending_is_exact,
        "oldest_seconds": sample.oldest_s,
        "sampled_seconds_ago": round(now - sample.taken_at, 3),
    }


def _moment(at: float | None) -> str | None:
    if at is None:
        return None
    text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
