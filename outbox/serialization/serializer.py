"""Payloads to bytes: the JSON that goes on the wire is a contract, described in JsonSerializer."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Protocol
from uuid import UUID

from outbox.errors import PayloadNotSerializable
from outbox.serialization.faults import find_fault
from outbox.serialization.structs import struct_fields
from outbox.text import shown


class Serializer(Protocol):
    """What `Outbox(serializer=…)` takes. It must be safe to call from several threads."""

    @property
    def content_type(self) -> str | None:
        """What goes into the header `content-type`, unless the message says otherwise."""

    def serialize(self, payload: Any) -> bytes:
        """Return the bytes of a payload that is neither bytes nor None."""


class JsonSerializer:
    """Compact JSON in UTF-8.

    Decimal and UUID as text; datetimes as RFC 3339 with offset, naive ones refused; date and time
    as ISO 8601 text; enums by value; dataclasses, pydantic models, msgspec Structs and attrs
    classes as objects. NaN, infinity and every other type are refused with PayloadNotSerializable,
    which names the place.
    """

    content_type = "application/json"

    def serialize(self, payload: Any) -> bytes:
        """Return the JSON; raise PayloadNotSerializable naming what cannot be expressed."""
        try:
            return _encode(payload).encode()
        except RecursionError as error:
            fault = find_fault(payload, jsonable) or "payload: nested too deeply; flatten it"
            raise PayloadNotSerializable(fault) from error
        # The slow walk is taken only now, to say where the fault is.
        except (TypeError, ValueError) as error:
            fault = find_fault(payload, jsonable) or f"payload: {error}"
            raise PayloadNotSerializable(fault) from error


def jsonable(value: Any) -> Any:
    """Return what JSON can express for `value`, one level deep; raise PayloadNotSerializable."""
    to_json = _CONVERSIONS.get(type(value)) or _conversion_for(value)
    return to_json(value)


def _decimal_text(value: Decimal) -> str:
    if not value.is_finite():
        raise PayloadNotSerializable(f"Decimal {value} has no JSON; leave it out or send null")
    return str(value)


def _datetime_text(value: datetime) -> str:
    offset = value.utcoffset()
    if offset is None:
        raise PayloadNotSerializable(
            f"datetime {value.isoformat()} has no time zone, so it names no moment; "
            "give it one, for example datetime.now(timezone.utc)"
        )
    # RFC 3339 has no offsets with seconds, such as local mean time before 1900.
    return (value.astimezone(UTC) if offset.total_seconds() % 60 else value).isoformat()


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _attrs_fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}


_CONVERSIONS: dict[type, Any] = {
    Decimal: _decimal_text,
    UUID: str,
    datetime: _datetime_text,
    date: date.isoformat,
    time: time.isoformat,
}


def _conversion_for(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return lambda member: member.value
    if isinstance(value, type):
        raise _unknown(value, f"the class {value.__name__} itself")
    # Before dataclasses: a pydantic dataclass has no model_dump, a model no dataclass fields.
    if callable(getattr(value, "model_dump", None)):
        return lambda model: model.model_dump(mode="python")
    if dataclasses.is_dataclass(value):
        return _fields
    if hasattr(value, "__struct_config__"):
        return struct_fields
    if hasattr(value, "__attrs_attrs__"):
        return _attrs_fields
    for base in (Decimal, UUID, datetime, date, time):
        if isinstance(value, base):
            return _CONVERSIONS[base]
    raise _unknown(value, f"type {type(value).__name__}")


def _unknown(value: object, what: str) -> PayloadNotSerializable:
    advice = next((hint for cls, hint in _ADVICE if isinstance(value, cls)), _OTHERWISE)
    return PayloadNotSerializable(f"{what} ({shown(value)}) has no JSON; {advice}")


_ADVICE: tuple[tuple[type | tuple[type, ...], str], ...] = (
    ((bytes, bytearray, memoryview), "use text, for example base64; or pass bytes as the payload"),
    ((set, frozenset), "use a list, sorted if its order should be stable"),
    (type, "pass an instance"),
)
_OTHERWISE = "convert it to str, int, float, list or dict, or give the Outbox a serializer of yours"


def _make_encode() -> Callable[[Any], str]:
    """Return what JSONEncoder.encode does, without making its C encoder anew for every payload.

    That making costs more than a payload's encoding. Without the table of what is open it holds no
    state, so threads may share it; a structure that contains itself ends in a RecursionError.
    """
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    try:
        chunks = make(
            None, jsonable, json.encoder.encode_basestring, None, ":", ",", False, False, False
        )
        chunks({}, 0)
    except TypeError:  # not CPython, or not one we know
        return json.JSONEncoder(
            ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=jsonable
        ).encode
    return lambda payload: "".join(chunks(payload, 0))


_encode = _make_encode()
