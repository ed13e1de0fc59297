"""Times as options take them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import click


class Moment(click.ParamType[datetime]):
    """A moment: a time in ISO 8601, or how long ago (90s, 30m, 12h, 7d)."""

    name = "time"
    _AGO = re.compile(r"(\d{1,9})([smhd])")
    _UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}  # noqa: RUF012 - never changed

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Return an aware datetime. One without an offset is refused: nobody could know whose."""
        if isinstance(value, datetime):
            return value
        text = str(value).strip()
        if found := self._AGO.fullmatch(text):
            seconds = int(found[1]) * self._UNITS[found[2]]
            return datetime.fromtimestamp(max(time.time() - seconds, 0), UTC)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(
                f"{text!r} is not a time: write 2026-11-21T09:30:00Z, or 30m for half an hour ago",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            self.fail(f"{text!r} has no offset: add Z for UTC, or +01:00", param, ctx)
        return moment


def shown(moment: float | None) -> str | None:
    """Return seconds since 1970 as ISO 8601 in UTC."""
    if moment is None:
        return None
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
