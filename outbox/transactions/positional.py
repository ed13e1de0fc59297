"""Queries in the notation of drivers that count their parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from outbox.transactions.opening import Parameters


@lru_cache(maxsize=1024)
def positional_query(sql: str) -> tuple[str, Callable[[Parameters], tuple[object, ...]]]:
    """Return the query with positional marks, and what picks the values for them, in order.

    psycopg would do so for named ones, too, but with every call.
    """
    names = _PARAMETER.findall(sql)
    query = _PARAMETER.sub("%s", sql.replace("%", "%%"))
    if len(names) > 1:
        return query, itemgetter(*names)
    return query, lambda parameters: tuple(parameters[name] for name in names)


# Not the second colon of `::type`.
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")
