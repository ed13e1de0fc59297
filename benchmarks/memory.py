"""B7: the most memory that a relay process has while it drains many messages, and large ones.

The baseline is a relay that drains one message: what Python and the libraries take.
"""

from __future__ import annotations

import argparse

from benchmarks.program import Found, options, run
from benchmarks.relay_command import RelayCommand
from outbox.bench.draining import PAYLOAD_BYTES, fill
from outbox.bench.place import Place
from outbox.bench.process import peak_memory_bytes
from outbox.bench.result import Goal, Repetition, Row
from outbox.errors import OutboxError

_MB = 1_000_000
_THAN = "a relay that drains one message"

#: A backlog is written in parts of so many bytes.
_PART = 200 * _MB


def main() -> None:
    parser = options(
        __doc__,
        messages=(int, 1_000_000, "messages of 256 bytes"),
        large=(int, 2_000, "messages of 1 MB"),
        repetitions=(int, 1, "how often"),
        patience=(float, 900.0, "seconds that a drain may take"),
    )
    run("B7", parser, measure)


def measure(place: Place, arguments: argparse.Namespace) -> Found:
    patience = arguments.patience
    small, large = arguments.messages, arguments.large
    alone = _peak_mb(place, 1, PAYLOAD_BYTES, patience)
    found = [
        (_peak_mb(place, small, PAYLOAD_BYTES, patience), _peak_mb(place, large, _MB, patience))
        for _ in range(arguments.repetitions)
    ]
    return Found(
        [
            _row(f"memory, draining {small:,}", [each[0] for each in found], alone, 120.0),
            _row(f"memory, draining {large:,} of 1 MB", [each[1] for each in found], alone, 250.0),
        ]
    )


def _row(what: str, found: list[float], alone: float, bound: float) -> Row:
    repetitions = [Repetition(each, alone) for each in found]
    return Row("B7", what, "MB", _THAN, repetitions, Goal(bound, "at most", "ours"))


def _peak_mb(place: Place, messages: int, payload_bytes: int, patience_s: float) -> float:
    """Return the largest resident memory of a relay process that drains a backlog."""
    place.renew()
    part = max(_PART // payload_bytes, 1)
    for first in range(0, messages, part):
        fill(place, min(part, messages - first), payload_bytes)
    peak = 0
    with RelayCommand(place, "--drain") as relay:

        def look() -> None:
            nonlocal peak
            peak = max(peak, peak_memory_bytes(relay.process.pid) or 0)

        relay.wait_until_it_has_ended(patience_s, look)
    if not peak:
        raise OutboxError("/proc does not tell here what memory a process has; run this on Linux")
    return peak / _MB


if __name__ == "__main__":
    main()
