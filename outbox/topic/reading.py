"""Values of JSON to what a Topic was declared with: dataclasses, TypedDicts, models, plain types.

What a foreign producer sends besides is left out; what is missing or of another type is named.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections import abc
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any
from uuid import UUID

from outbox.errors import PayloadNotReadable
from outbox.text import shown

Reader = Callable[[Any, str], Any]


def read(wanted: Any, value: Any, path: str = "payload") -> Any:
    """Return a value of JSON as a `wanted`; raise PayloadNotReadable naming the field."""
    return reader_of(wanted)(value, path)


@lru_cache(maxsize=1024)
def reader_of(wanted: Any) -> Reader:
    """Return what reads values of a type; they are looked up once, since hints are slow."""
    if wanted in (Any, object) or isinstance(wanted, typing.TypeVar):
        return _anything
    if reader := _SCALARS.get(wanted):
        return reader
    if supertype := getattr(wanted, "__supertype__", None):  # a NewType
        return reader_of(supertype)
    return _generic(wanted) or _class(wanted)


def _generic(wanted: Any) -> Reader | None:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Annotated, typing.Required, typing.NotRequired, typing.Final):
        return reader_of(arguments[0])
    if origin is typing.Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union(wanted, arguments)
    plain = origin or wanted
    if plain is tuple:
        return _tuple(arguments)
    if plain in _LISTS:
        return _list(_LISTS[plain], reader_of(arguments[0] if arguments else Any))
    if plain in (dict, abc.Mapping, abc.MutableMapping):
        return _dict(*(map(reader_of, arguments or (Any, Any))))
    return reader_of(origin) if origin is not None else None


def _class(wanted: Any) -> Reader:
    if typing.is_typeddict(wanted):
        return _typed_dict(wanted)
    # By what they have, so that neither library is loaded for those who do not use it.
    if callable(getattr(wanted, "model_validate_json", None)):
        return _model(wanted)
    if hasattr(wanted, "__struct_config__"):
        return _struct(wanted)
    if dataclasses.is_dataclass(wanted):
        return _dataclass(wanted)
    if hasattr(wanted, "__attrs_attrs__"):
        return _attrs(wanted)
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return _enum(wanted)
    raise PayloadNotReadable(
        f"{_name(wanted)} cannot be read from JSON: use a dataclass, TypedDict, pydantic model, "
        "msgspec Struct or attrs class of plain types, enums, Decimal, UUID, datetime, date, time"
    )


# Scalars


def _refuse(path: str, wanted: str, value: object) -> PayloadNotReadable:
    return PayloadNotReadable(f"{path} must be {wanted}, not {type(value).__name__} {shown(value)}")


def _anything(value: Any, path: str) -> Any:  # noqa: ARG001 - a Reader's signature
    return value


def _exact(wanted: type) -> Reader:
    def reader(value: Any, path: str) -> Any:
        if type(value) is not wanted:
            raise _refuse(path, wanted.__name__, value)
        return value

    return reader


def _int(value: Any, path: str) -> int:
    # Some languages have no other numbers than floats.
    if type(value) is int or (type(value) is float and value.is_integer()):
        return int(value)
    raise _refuse(path, "int", value)


def _float(value: Any, path: str) -> float:
    if type(value) in (int, float):
        return float(value)
    raise _refuse(path, "float", value)


def _decimal(value: Any, path: str) -> Decimal:
    if isinstance(value, (str, int, float, Decimal)) and not isinstance(value, bool):
        try:
            return Decimal(str(value))
        except InvalidOperation:
            pass
    raise _refuse(path, "a decimal number as text", value)


def _from_text(wanted: type, what: str, parse: Callable[[str], Any]) -> Reader:
    def reader(value: Any, path: str) -> Any:
        if isinstance(value, wanted):
            return value
        if isinstance(value, str):
            try:
                return parse(value)
            except ValueError:
                pass
        raise _refuse(path, what, value)

    return reader


_SCALARS: dict[Any, Reader] = {
    None: _exact(type(None)),
    type(None): _exact(type(None)),
    bool: _exact(bool),
    str: _exact(str),
    int: _int,
    float: _float,
    Decimal: _decimal,
    UUID: _from_text(UUID, "a UUID as text", UUID),
    datetime: _from_text(datetime, "a date and time (RFC 3339)", datetime.fromisoformat),
    date: _from_text(date, "a date (ISO 8601)", date.fromisoformat),
    time: _from_text(time, "a time (ISO 8601)", time.fromisoformat),
}


def _literal(values: tuple[Any, ...]) -> Reader:
    def reader(value: Any, path: str) -> Any:
        for known in values:
            if known == value and type(known) is type(value):
                return known
        raise _refuse(path, " or ".join(map(repr, values)), value)

    return reader


def _enum(wanted: type[enum.Enum]) -> Reader:
    def reader(value: Any, path: str) -> Any:
        for member in wanted:
            if member.value == value or str(member.value) == value:  # a Decimal is text in JSON
                return member
        known = ", ".join(repr(member.value) for member in wanted)
        raise _refuse(path, f"one of {known}", value)

    return reader


# Structures

_LISTS: dict[Any, Callable[[Iterable[Any]], Any]] = {
    list: list,
    set: set,
    frozenset: frozenset,
    abc.Sequence: list,
    abc.Iterable: list,
    abc.Collection: list,
    abc.MutableSequence: list,
    abc.Set: frozenset,
}


def _list(make: Callable[[Iterable[Any]], Any], item: Reader) -> Reader:
    def reader(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            raise _refuse(path, "a list", value)
        return make(item(each, f"{path}[{index}]") for index, each in enumerate(value))

    return reader


def _tuple(arguments: tuple[Any, ...]) -> Reader:
    if len(arguments) in (0, 2) and arguments[1:] in ((), (...,)):
        return _list(tuple, reader_of(arguments[0] if arguments else Any))
    items = [reader_of(argument) for argument in arguments]

    def reader(value: Any, path: str) -> Any:
        if not isinstance(value, list) or len(value) != len(items):
            raise _refuse(path, f"a list of {len(items)}", value)
        pairs = enumerate(zip(items, value, strict=True))
        return tuple(item(each, f"{path}[{index}]") for index, (item, each) in pairs)

    return reader


def _dict(key: Reader, item: Reader) -> Reader:
    def reader(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise _refuse(path, "an object", value)
        return {key(k, f"{path}: the key"): item(v, f"{path}.{k}") for k, v in value.items()}

    return reader


def _union(wanted: Any, members: tuple[Any, ...]) -> Reader:
    readers = [reader_of(member) for member in members]

    def reader(value: Any, path: str) -> Any:
        failures = []
        for read_member in readers:
            try:
                return read_member(value, path)
            except PayloadNotReadable as failure:
                failures.append(failure)
        deeper = [failure for failure in failures if not str(failure).startswith(f"{path} must be")]
        if deeper:  # of an optional object, say what is wrong within it
            raise deeper[0]
        raise _refuse(path, _name(wanted), value)

    return reader


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    name: str  # the argument of the class
    key: str  # the name in the JSON
    wanted: Any
    required: bool


def _object(make: Callable[..., Any], fields: list[_Field], name: str) -> Reader:
    # Looked up at the first value: a class may refer to itself.
    readers: dict[str, Reader] = {}

    def reader(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise _refuse(path, f"an object ({name})", value)
        given = {}
        for field in fields:
            if field.key in value:
                read_field = readers.get(field.key) or reader_of(field.wanted)
                readers[field.key] = read_field
                given[field.name] = read_field(value[field.key], f"{path}.{field.key}")
            elif field.required:
                raise PayloadNotReadable(f"{path}.{field.key} is missing ({name})")
        try:
            return make(**given)
        except (ValueError, TypeError) as error:  # what the class itself checks
            raise PayloadNotReadable(f"{path} ({name}): {error}") from error

    return reader


def _dataclass(wanted: Any) -> Reader:
    hints = _hints(wanted)
    missing = dataclasses.MISSING
    fields = [
        _Field(
            field.name,
            field.name,
            hints[field.name],
            field.default is missing and field.default_factory is missing,
        )
        for field in dataclasses.fields(wanted)
        if field.init
    ]
    return _object(wanted, fields, _name(wanted))


def _attrs(wanted: Any) -> Reader:
    from attrs import NOTHING

    hints = _hints(wanted)
    fields = [
        # The argument of a private attribute has no underscore; the JSON has the attribute's name.
        _Field(each.alias, each.name, hints.get(each.name, Any), each.default is NOTHING)
        for each in wanted.__attrs_attrs__
        if each.init
    ]
    return _object(wanted, fields, _name(wanted))


def _typed_dict(wanted: Any) -> Reader:
    fields = [
        _Field(key, key, hint, _is_required(wanted, key, hint))
        for key, hint in _hints(wanted).items()
    ]
    return _object(dict, fields, _name(wanted))


def _is_required(wanted: Any, key: str, hint: Any) -> bool:
    # `__required_keys__` overlooks the markers where annotations are kept as text.
    marker = typing.get_origin(hint)
    if marker in (typing.Required, typing.NotRequired):
        return marker is typing.Required
    return key in wanted.__required_keys__


def _hints(wanted: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(wanted, include_extras=True)
    except NameError as error:
        raise PayloadNotReadable(
            f"the annotations of {_name(wanted)} cannot be looked up: {error}; "
            "import at run time what they name, and define the class at the top of its module"
        ) from error


def _model(wanted: Any) -> Reader:
    def reader(value: Any, path: str) -> Any:
        try:
            # As JSON: a strict model takes a UUID as text from there, and from Python does not.
            return wanted.model_validate_json(json.dumps(value, default=str))
        except ValueError as error:
            raise PayloadNotReadable(_first_error(error, path)) from error

    return reader


def _first_error(error: ValueError, path: str) -> str:
    """Return pydantic's first complaint in one line, with the place that it is about."""
    errors: list[Any] = error.errors() if hasattr(error, "errors") else []
    if not errors:
        return f"{path}: {error}"
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in errors[0]["loc"])
    return f"{path}{''.join(steps)}: {errors[0]['msg']}"


def _struct(wanted: Any) -> Reader:
    from msgspec import ValidationError, convert

    def reader(value: Any, path: str) -> Any:
        try:
            return convert(value, wanted)
        except ValidationError as error:
            sentence, at, place = str(error).partition(" - at `$")
            raise PayloadNotReadable(f"{path}{place[:-1] if at else ''}: {sentence}") from error

    return reader


def _name(wanted: Any) -> str:
    return wanted.__qualname__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
