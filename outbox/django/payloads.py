"""A payload as the admin shows it."""

from __future__ import annotations

import json

#: What is shown of a payload at most: characters of text, bytes of anything else.
MAX_SHOWN = 100_000
MAX_HEX = 1_024


def shown_payload(payload: bytes | memoryview | None) -> str:
    """Return JSON in lines, text as it is, and the beginning of anything else in hex."""
    if payload is None:
        return "(tombstone: no payload)"
    data = bytes(payload)
    try:
        text = _pretty(data.decode())
    except UnicodeDecodeError:
        return _cut(data[:MAX_HEX].hex(" ", -4), len(data) > MAX_HEX, len(data))
    return _cut(text[:MAX_SHOWN], len(text) > MAX_SHOWN, len(data))


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _cut(shown: str, is_cut: bool, size: int) -> str:
    return f"{shown}\n… ({size:,} bytes in all)" if is_cut else shown
