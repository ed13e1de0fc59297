"""What the probes answer, for each state that a relay can be in."""

from __future__ import annotations

import pytest

from outbox.http.health import Health
from outbox.metrics.monitor import RelayMonitor
from outbox.metrics.sample import HeldSample, LaneSample, Sample

NOW = 1_800_000_000.0


class Stage:
    """A relay that is put into states."""

    def __init__(self) -> None:
        self.stopping = False
        self.monitor = RelayMonitor("audit", wall_clock=lambda: NOW - 5)
        self.health = Health(self.monitor, lambda: self.stopping, lambda: NOW)

    @property
    def verdicts(self) -> tuple[bool, bool, bool]:
        """Whether it is live, ready, healthy."""
        return self.health.live().ok, self.health.ready().ok, self.health.whole()[0]


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_before_the_database_was_reached_it_is_alive_and_not_ready(stage: Stage) -> None:
    stage.monitor.failed("database")
    stage.monitor.troubled("database", "connection refused")
    assert stage.verdicts == (True, False, False)
    assert "not been reached" in (stage.health.ready().reason or "")


def test_a_relay_at_work_is_well(stage: Stage) -> None:
    stage.monitor.connected()
    stage.monitor.began_term("default", 4)
    assert stage.verdicts == (True, True, True)


def test_a_standby_is_well(stage: Stage) -> None:
    stage.monitor.connected()
    stage.monitor.stands_by()
    assert stage.verdicts == (True, True, True)


@pytest.mark.parametrize("cause", ["database", "broker", "topic"])
def test_an_outage_leaves_it_alive_and_ready_and_is_not_hidden(stage: Stage, cause: str) -> None:
    stage.monitor.connected()
    stage.monitor.failed(cause)
    stage.monitor.troubled(cause, "why")
    assert stage.verdicts == (True, True, False)
    assert stage.health.whole()[1]["trouble"] == {
        "waiting_for": cause,
        "reason": "why",
        "since": "2027-01-15T07:59:55.000Z",
        "seconds": 5.0,
    }


def test_a_relay_that_drains_is_alive_and_not_ready(stage: Stage) -> None:
    stage.monitor.connected()
    stage.stopping = True
    assert stage.verdicts == (True, False, False)
    assert stage.health.whole()[1]["state"] == "stopping"


def test_a_loop_that_is_still_is_dead(stage: Stage) -> None:
    stage.monitor.connected()
    stage.monitor.pulse._last = (None, float("-inf"))
    assert stage.verdicts == (False, True, False)
    assert "has not turned" in (stage.health.live().reason or "")


def test_dead_messages_and_closed_topics_are_told_and_make_no_relay_unhealthy(
    stage: Stage,
) -> None:
    """A restart would not mend them, and what is not held flows."""
    # Given a relay that works, beside whose log messages are dead and a topic is closed
    stage.monitor.connected()
    stage.monitor.began_term("default", 4)
    stage.monitor.closed({"orders"})
    held = HeldSample({"retrying": 1, "dead": 7}, {"dead": 90_000.0}, 7)
    stage.monitor.sampled(Sample(NOW, (), 1, 1, held=held))
    # When it is asked
    healthy, everything = stage.health.whole()
    # Then
    assert healthy
    assert stage.health.ready().ok
    assert stage.health.live().ok
    assert everything["held"] == {
        "messages": {"retrying": 1, "dead": 7},
        "oldest_seconds": {"dead": 90_000.0},
        "stopped_keys": 7,
    }
    assert everything["closed_topics"] == ["orders"]
    assert everything["delivery"] == "at-least-once"


def test_the_whole_truth_has_all_that_is_known(stage: Stage) -> None:
    stage.monitor.connected()
    stage.monitor.began_term("default", 4)
    stage.monitor.progressed()
    stage.monitor.sampled(Sample(NOW - 2, (LaneSample("default", 12_000, False, 3.5),), 2, 1))
    healthy, everything = stage.health.whole()
    assert healthy
    assert everything["lag"] == {
        "messages": 12_000,
        "is_exact": False,
        "oldest_seconds": 3.5,
        "sampled_seconds_ago": 2.0,
    }
    assert everything["last_progress"] == "2027-01-15T07:59:55.000Z"
    assert [everything[name] for name in ("relay", "state", "lanes", "trouble")] == [
        "audit",
        "relaying",
        {"default": 4},
        None,
    ]
