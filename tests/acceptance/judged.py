"""What must be true after every fault: all is there, in order, and nothing counts as an attempt."""

from __future__ import annotations

from tests.acceptance.relay_process import Scene
from tests.waiting import wait_until


def is_judged(scene: Scene, repeats: int | None = None) -> None:
    """Check that all that was committed is there, in order, and nothing is held any more."""
    scene.wait_until_delivered()
    wait_until(
        lambda: not scene.query("select from outbox_held limit 1"), what="what is held to go"
    )
    findings = scene.verdict()
    assert findings.faults == 0, findings
    assert repeats in (None, findings.repeats), findings


def counts_no_attempt(scene: Scene) -> None:
    """Check that nothing was held against a message."""
    assert scene.query("select seq from outbox_held where attempts > 0 or state = 'dead'") == []
