"""Whether a process should serve streams while others could: a pure decision."""

from __future__ import annotations

#: Who has failed on the broker lets the others have its streams for so long, in seconds; twice as
#: long each time in a row, for each time that it tries a stream changes hands twice.
_FIRST_S = 5.0
_LONGEST_S = 300.0


class Fitness:
    """What a process knows of its own way to the broker; times by the caller's clock."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_S
        self._unfit_until = float("-inf")

    def is_fit(self, now: float) -> bool:
        """Return whether to ask for streams that another process could have."""
        return now >= self._unfit_until

    def failed(self, now: float) -> None:
        """Note that the broker could not be reached, or did not answer."""
        if self.is_fit(now):
            self._unfit_until = now + self._pause_s
            self._pause_s = min(self._pause_s * 2, _LONGEST_S)

    def succeeded(self) -> None:
        """Note that messages were acknowledged."""
        self._pause_s = _FIRST_S
        self._unfit_until = float("-inf")
