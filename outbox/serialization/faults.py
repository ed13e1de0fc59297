"""Where in a payload the fault is. Slow, and only run once the encoder has failed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

#: Deeper than the encoder itself goes; ends the search in a model that never stops unfolding.
MAX_DEPTH = 2_000

_NATIVE = (str, int, float, list, tuple, dict, type(None))


@dataclass(frozen=True, slots=True)
class _Place:
    path: str
    value: Any
    above: tuple[int, ...] = ()

    def inner(self, path: str, value: Any) -> _Place:
        return _Place(path, value, (*self.above, id(self.value)))


def find_fault(payload: object, jsonable: Callable[[Any], Any]) -> str | None:
    """Return `path: what is wrong and what to do` of the first fault, or None.

    `jsonable` converts one value that JSON has no type for, or raises ValueError or TypeError.
    """
    # A stack of places, not recursion: a payload may fail for being deeper than Python recurses.
    places = [_Place("payload", payload)]
    converted = []  # keeps what was made on the way alive, so that no id() is used twice
    while places:
        place = places.pop()
        fault = _fault(place)
        if fault:
            return fault
        if not isinstance(place.value, _NATIVE):
            try:
                converted.append(jsonable(place.value))
            except (ValueError, TypeError) as error:
                return f"{place.path}: {error}"
            places.append(place.inner(place.path, converted[-1]))
        places += reversed(list(_children(place)))
    return None


def _fault(place: _Place) -> str | None:
    path, value = place.path, place.value
    if id(value) in place.above:
        return f"{path}: the structure contains itself, which JSON cannot express; break the cycle"
    if len(place.above) > MAX_DEPTH:
        return f"payload: nested more than {MAX_DEPTH} levels deep; flatten it"
    if isinstance(value, dict):
        return next((fault for key in value if (fault := _key_fault(key, path))), None)
    return _scalar_fault(value, path)


def _key_fault(key: object, path: str) -> str | None:
    if isinstance(key, (str, int, float, type(None))):
        return _scalar_fault(key, f"{path}: the key {key!r}")
    return f"{path}: the key {key!r} is of type {type(key).__name__}; JSON keys are text, use str()"


def _scalar_fault(value: Any, path: str) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path}: float {value} has no JSON; leave it out or send null"
    if isinstance(value, str) and not _is_utf8(value):
        return f"{path}: the text contains a lone surrogate, which UTF-8 cannot express"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _children(place: _Place) -> Iterator[_Place]:
    if isinstance(place.value, dict):
        for key, child in place.value.items():
            yield place.inner(_step(place.path, key), child)
    elif isinstance(place.value, (list, tuple)):
        for index, child in enumerate(place.value):
            yield place.inner(f"{place.path}[{index}]", child)


def _step(path: str, key: object) -> str:
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{key!r}]"
