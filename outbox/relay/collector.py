"""Python's cyclic garbage collector, for a process that is a relay and nothing else."""

from __future__ import annotations

import gc


def spare_the_collector() -> None:
    """Let the collector look less often.

    A relay makes many small objects a second and no cycles of them; at the default thresholds a
    third of its time went into looking for some. What is in flight is bounded, and so is what the
    collector leaves lying about.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
