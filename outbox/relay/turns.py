"""Whose turn it is among the lanes that one process serves: a pure decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

#: A lane that others went before so many times goes first once, whatever its priority: one page in
#: nine is the least it gets.
PATIENCE = 8


class Turns:
    """Strict priority, a fair turn among equals, and nobody starves.

    A turn is a page. Of lanes with the same priority the one goes first that was served the longest
    time ago.
    """

    def __init__(self) -> None:
        self._count = 0
        self._served: dict[str, int] = {}
        self._passed_over: dict[str, int] = {}

    def order(self, priorities: Mapping[str, int]) -> list[str]:
        """Return the lanes in the order in which to ask them for a page."""
        return sorted(
            priorities,
            key=lambda lane: (
                self._passed_over.get(lane, 0) < PATIENCE,
                -priorities[lane],
                self._served.get(lane, 0),
                lane,
            ),
        )

    def served(self, lane: str, not_asked: Iterable[str]) -> None:
        """Note that a lane had a page, and which ones were not asked because of it."""
        self._count += 1
        self._served[lane] = self._count
        self._passed_over[lane] = 0
        for other in not_asked:
            self._passed_over[other] = self._passed_over.get(other, 0) + 1

    def had_nothing(self, lane: str) -> None:
        """Note that a lane was asked and had no page: it waits for nothing."""
        self._passed_over[lane] = 0
