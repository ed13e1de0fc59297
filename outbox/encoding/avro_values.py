"""Values of JSON to what an Avro schema asks for.

Decimals, dates, times, UUIDs and bytes are text in JSON, and the schema says which text is what.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import Any
from uuid import UUID

from outbox.encoding.misfit import Misfit, misfit

Convert = Callable[[Any, str], Any]

_RANGES = {"int": 31, "long": 63}


class Conversion:
    """Converts values for one schema.

    `schema`: as parsed from its JSON. `named`: further schemas that it refers to, by full name.
    `ignore_unknown`: whether to leave out fields that it does not have. Raises Misfit.
    """

    def __init__(
        self, schema: Any, named: Mapping[str, Any] | None = None, *, ignore_unknown: bool = False
    ) -> None:
        self._ignore_unknown = ignore_unknown
        self._named: dict[str, Convert] = {}
        self._records: set[str] = set()
        for other in (named or {}).values():
            self._converter(other, "")
        self._convert = self._converter(schema, "")

    def __call__(self, value: Any) -> Any:
        """Return the value as Avro's writer takes it."""
        return self._convert(value, "payload")

    def _converter(self, schema: Any, namespace: str) -> Convert:
        if isinstance(schema, list):
            return self._union(schema, namespace)
        if isinstance(schema, str):
            return _PRIMITIVES.get(schema) or self._reference(schema, namespace)
        kind = schema["type"]
        if kind in ("record", "error"):
            return self._record(schema, namespace)
        if kind in ("enum", "fixed"):
            return self._name(schema, namespace, _enum if kind == "enum" else _fixed)
        if kind == "array":
            return _array(self._converter(schema["items"], namespace))
        if kind == "map":
            return _map(self._converter(schema["values"], namespace))
        if logical := _logical(schema):
            return logical
        return self._converter(kind, namespace)

    def _reference(self, name: str, namespace: str) -> Convert:
        full = _full_name({"name": name}, namespace)

        def convert(value: Any, path: str) -> Any:
            # Looked up at the first value: a type may refer to itself.
            return (self._named.get(full) or self._named[name])(value, path)

        return convert

    def _name(self, schema: Any, namespace: str, make: Callable[[Any], Convert]) -> Convert:
        made = self._named[_full_name(schema, namespace)] = make(schema)
        return made

    def _record(self, schema: Any, namespace: str) -> Convert:
        full = _full_name(schema, namespace)
        inner = full.rpartition(".")[0]
        fields = [
            (each["name"], self._converter(each["type"], inner), _default(each))
            for each in schema["fields"]
        ]
        known = {name for name, _, _ in fields}

        def convert(value: Any, path: str) -> Any:
            if not isinstance(value, dict):
                raise misfit(path, f"an object (record {full})", value)
            if not self._ignore_unknown and (unknown := value.keys() - known):
                raise Misfit(
                    f"{path}.{min(unknown)}",
                    f"record {full} has no such field; add it to the schema, or set "
                    'unknown_fields = "ignore"',
                )
            record = {}
            for name, convert_field, default in fields:
                if name in value:
                    record[name] = convert_field(value[name], f"{path}.{name}")
                elif default is _REQUIRED:
                    raise Misfit(f"{path}.{name}", f"it is missing, and has no default in {full}")
                elif default is not _WRITERS:
                    record[name] = default
            return record

        self._named[full] = convert
        self._records.add(full)
        return convert

    def _union(self, branches: list[Any], namespace: str) -> Convert:
        converters = [
            (_tag(branch, namespace), self._converter(branch, namespace)) for branch in branches
        ]

        def convert(value: Any, path: str) -> Any:
            failures: list[Misfit] = []
            for tag, convert_branch in converters:
                try:
                    converted = convert_branch(value, path)
                except Misfit as failure:
                    if convert_branch is not _null:
                        failures.append(failure)
                else:
                    # Of two records the writer cannot tell which is meant, so it is told.
                    return (tag, converted) if tag in self._records else converted
            raise _closest(failures, path, value)

        return convert


def _closest(failures: list[Misfit], path: str, value: Any) -> Misfit:
    """Return the failure of the branch that was meant, where that can be seen."""
    deeper = [failure for failure in failures if failure.path != path]
    if deeper or len(failures) == 1:
        return (deeper or failures)[0]
    return misfit(path, "of any type of the union", value)


def _tag(branch: Any, namespace: str) -> str | None:
    """Return the name of a branch, if it has one."""
    if isinstance(branch, str):
        return _full_name({"name": branch}, namespace)
    return _full_name(branch, namespace) if isinstance(branch, dict) and "name" in branch else None


def _full_name(schema: Any, namespace: str) -> str:
    name: str = schema["name"]
    if "." in name:
        return name
    space = schema.get("namespace", namespace)
    return f"{space}.{name}" if space else name


#: Marks of a field without a default, and of one whose default Avro's writer puts in.
_REQUIRED, _WRITERS = object(), object()


def _default(field: Any) -> object:
    if "default" in field:
        return _WRITERS
    kind = field["type"]
    # What is absent in JSON is null in most languages.
    return None if isinstance(kind, list) and "null" in kind else _REQUIRED


# Plain types


def _null(value: Any, path: str) -> None:
    if value is not None:
        raise misfit(path, "null", value)


def _boolean(value: Any, path: str) -> bool:
    if isinstance(value, bool):
        return value
    raise misfit(path, "true or false", value)


def _integer(kind: str) -> Convert:
    limit = 2 ** _RANGES[kind]

    def convert(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
            raise misfit(path, f"a whole number ({kind})", value)
        if not -limit <= value < limit:
            raise misfit(path, f"within the range of {kind}", value)
        if value != int(value):
            raise misfit(path, f"a whole number ({kind})", value)
        return int(value)

    return convert


def _floating(value: Any, path: str) -> float:
    try:
        if not isinstance(value, bool):
            number = float(value)  # of a decimal's text too
            if math.isfinite(number):
                return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise misfit(path, "a number", value)


def _string(value: Any, path: str) -> str:
    if isinstance(value, str):
        return value
    raise misfit(path, "text", value)


def _bytes(value: Any, path: str) -> bytes:
    try:
        return base64.b64decode(_string(value, path), validate=True)
    except (binascii.Error, ValueError):
        raise misfit(path, "bytes as base64", value) from None


_PRIMITIVES: dict[str, Convert] = {
    "null": _null,
    "boolean": _boolean,
    "int": _integer("int"),
    "long": _integer("long"),
    "float": _floating,
    "double": _floating,
    "string": _string,
    "bytes": _bytes,
}


# Structures


def _array(item: Convert) -> Convert:
    def convert(value: Any, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise misfit(path, "a list", value)
        return [item(each, f"{path}[{index}]") for index, each in enumerate(value)]

    return convert


def _map(item: Convert) -> Convert:
    def convert(value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise misfit(path, "an object (a map)", value)
        return {key: item(each, f"{path}.{key}") for key, each in value.items()}

    return convert


def _enum(schema: Any) -> Convert:
    symbols = schema["symbols"]

    def convert(value: Any, path: str) -> str:
        if value in symbols:
            return str(value)
        raise misfit(path, f"one of {', '.join(symbols)}", value)

    return convert


def _fixed(schema: Any) -> Convert:
    if logical := _logical(schema):
        return logical
    size = schema["size"]

    def convert(value: Any, path: str) -> bytes:
        data = _bytes(value, path)
        if len(data) != size:
            raise misfit(path, f"{size} bytes as base64", value)
        return data

    return convert


# Logical types


def _logical(schema: Any) -> Convert | None:
    logical = schema.get("logicalType")
    if logical == "decimal":
        return _decimal(schema["precision"], schema.get("scale", 0))
    found = _LOGICAL.get((schema["type"], logical))
    return found if found is None else _parsed(*found)


def _decimal(precision: int, scale: int) -> Convert:
    # What is too small for the context would become 0 without a word.
    exact = Context(prec=max(precision, 28) + 4_000, Emin=MIN_EMIN, Emax=MAX_EMAX)

    def convert(value: Any, path: str) -> Decimal:
        number = _number(value, path)
        if number and number.adjusted() >= precision - scale:
            raise misfit(
                path, f"a decimal({precision}, {scale}): too many digits before the point", value
            )
        shifted = number.scaleb(scale, exact)
        if shifted != int(shifted):
            raise misfit(
                path, f"a decimal({precision}, {scale}): too many digits after the point", value
            )
        # Avro's writer does not drop zeros at the end by itself.
        return Decimal(int(shifted)).scaleb(-scale, exact)

    return convert


def _number(value: Any, path: str) -> Decimal:
    if isinstance(value, (str, int, float, Decimal)) and not isinstance(value, bool):
        try:
            number = Decimal(str(value))
        except InvalidOperation:
            pass
        else:
            if number.is_finite():
                return number
    raise misfit(path, "a decimal number", value)


def _parsed(parse: Callable[[str], Any], what: str) -> Convert:
    # A moment may also be given as the number that Avro stores; nothing else that is parsed may.
    numbers = parse is not UUID

    def convert(value: Any, path: str) -> Any:
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            try:
                return parse(value)
            except ValueError:
                pass
        raise misfit(path, what, value)

    return convert


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() is None:
        raise ValueError("no offset")
    return moment


def _local(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() is not None:
        raise ValueError("an offset")
    return moment


_MOMENT = (_moment, "a date and time with offset (RFC 3339)")
_LOCAL = (_local, "a date and time without offset (ISO 8601)")
_TIME = (time.fromisoformat, "a time (ISO 8601)")
_UUID = (UUID, "a UUID")

#: How the text of a logical type is read, by the type below it.
_LOGICAL: dict[tuple[str, str], tuple[Callable[[str], Any], str]] = {
    ("long", "timestamp-millis"): _MOMENT,
    ("long", "timestamp-micros"): _MOMENT,
    ("long", "local-timestamp-millis"): _LOCAL,
    ("long", "local-timestamp-micros"): _LOCAL,
    ("int", "date"): (date.fromisoformat, "a date (ISO 8601)"),
    ("int", "time-millis"): _TIME,
    ("long", "time-micros"): _TIME,
    ("string", "uuid"): _UUID,
    ("fixed", "uuid"): _UUID,
}
