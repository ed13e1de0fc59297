"""What librdkafka says, without saying it twenty times a second.

While a broker is away, a consumer tries that often to reach its group's coordinator, whatever
`reconnect.backoff.ms` says, and logs every failure.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

#: Seconds between two lines that differ in nothing but numbers.
EVERY_S = 30.0

#: So many different lines are remembered; more than that is no repetition.
_KEPT = 256

_NUMBER = re.compile(r"\d+")


class SparingLog:
    """Stands for a logger where a Kafka client wants one.

    What was said lately is counted instead, and the number is given with the next such line.
    """

    def __init__(
        self,
        logger: logging.Logger,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._every_s = every_s
        self._clock = clock
        self._said: dict[str, tuple[float, int]] = {}

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Log a line, unless one like it was logged a moment ago."""
        text = message % arguments if arguments else message
        line, now = _NUMBER.sub("#", text), self._clock()
        at, held_back = self._said.get(line, (now - self._every_s, 0))
        if now - at < self._every_s:
            self._said[line] = at, held_back + 1
            return
        if len(self._said) >= _KEPT:
            self._said.clear()
        self._said[line] = now, 0
        more = f" (and {held_back:,} more like it)" if held_back else ""
        self._logger.log(level, "%s%s", text, more)
