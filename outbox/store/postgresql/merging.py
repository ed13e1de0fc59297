"""Merging what was read: fresh and late messages, light and heavy ones. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import takewhile
from operator import itemgetter

from outbox.record import Record

_total = itemgetter(-1)


def merge(
    parts: Sequence[list[Record]], max_rows: int, max_bytes: int
) -> tuple[list[Record], bool]:
    """Merge selections, each in order of seq and cut at the bounds, into one page.

    A selection that was cut says nothing about what follows its last row, so the page ends at the
    lowest such row. Returns the page, and whether nothing was cut. Rows end with their `total`.

    >>> merge([[(1, "a", 9), (4, "d", 18)], [(2, "b", 9)]], 2, 100)
    ([(1, 'a', 9), (2, 'b', 9)], False)
    """
    ends = [rows[-1][0] for rows in parts if _is_cut(rows, max_rows, max_bytes)]
    if len(parts) == 1:  # by far the most frequent; nothing is copied
        return parts[0], not ends
    merged = list(heapq.merge(*parts, key=itemgetter(0)))
    page = [row for row in merged if not ends or row[0] <= min(ends)][:max_rows]
    return page, not ends and len(page) == len(merged)


def before_heavy(rows: list[Record], max_rows: int) -> tuple[list[Record], bool]:
    """Cut a selection without a bound in bytes before its first heavy row: that one has a total.

    Returns the page, and whether nothing was cut.

    >>> before_heavy([(1, "a", 0), (2, None, 9000), (3, "c", 0)], 5)
    ([(1, 'a', 0)], False)
    """
    if not any(map(_total, rows)):
        return rows, len(rows) < max_rows
    return list(takewhile(lambda row: not row[-1], rows)), False


def _is_cut(rows: list[Record], max_rows: int, max_bytes: int) -> bool:
    return bool(rows) and (len(rows) >= max_rows or rows[-1][-1] >= max_bytes)
