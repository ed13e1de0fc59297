"""Values of JSON become what an Avro schema asks for, exactly or not at all."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.encoding.avro_values import Conversion
from outbox.encoding.misfit import Misfit


def logical(kind: str, name: str, **more: object) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


def record(*fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "record", "name": "Order", "namespace": "shop", "fields": list(fields)}


MONEY = logical("bytes", "decimal", precision=6, scale=2)
LINE = {"type": "record", "name": "Line", "fields": [{"name": "sku", "type": "string"}]}
NODE = record({"name": "next", "type": ["null", "Order"]}, {"name": "n", "type": "int"})


@pytest.mark.parametrize(
    ("schema", "value", "converted"),
    [
        ("int", 5, 5),
        ("long", 5.0, 5),
        ("double", 5, 5.0),
        ("double", "2.5", 2.5),
        ("bytes", "AAH/", b"\x00\x01\xff"),
        ({"type": "fixed", "name": "F", "size": 3}, "AAH/", b"\x00\x01\xff"),
        (MONEY, "12.5", Decimal("12.50")),
        (MONEY, "12.500", Decimal("12.50")),
        (MONEY, 12, Decimal("12.00")),
        (MONEY, "-9999.99", Decimal("-9999.99")),
        (
            {**MONEY, "type": "fixed", "name": "M", "size": 4},
            "1",
            Decimal("1.00"),
        ),
        (
            logical("long", "timestamp-micros"),
            "2026-01-02T03:04:05.000006Z",
            datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        ),
        (logical("long", "timestamp-millis"), 17, 17),
        (
            logical("long", "local-timestamp-millis"),
            "2026-01-02T03:04:05",
            datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001 - the schema asks for no time zone
        ),
        (logical("int", "date"), "2026-01-02", date(2026, 1, 2)),
        (logical("int", "time-millis"), "03:04:05", time(3, 4, 5)),
        (logical("string", "uuid"), str(UUID(int=1)), UUID(int=1)),
        (["null", "string"], None, None),
        (["null", MONEY], "1", Decimal("1.00")),
        (["int", "string"], "a", "a"),
        ({"type": "array", "items": "int"}, [1], [1]),
        ({"type": "map", "values": MONEY}, {"a": "1"}, {"a": Decimal("1.00")}),
        ({"type": "enum", "name": "E", "symbols": ["a"]}, "a", "a"),
        (record({"name": "a", "type": "int", "default": 3}), {}, {}),
        (record({"name": "a", "type": ["null", "int"]}), {}, {"a": None}),
        (
            NODE,
            {"n": 1, "next": {"n": 2, "next": None}},
            {"n": 1, "next": ("shop.Order", {"n": 2, "next": None})},
        ),
        (
            record({"name": "x", "type": [LINE, {**LINE, "name": "Other", "fields": []}]}),
            {"x": {}},
            {"x": ("shop.Other", {})},
        ),
    ],
)
def test_a_value_becomes_what_the_schema_asks_for(
    schema: Any, value: object, converted: object
) -> None:
    assert Conversion(schema)(value) == converted


@pytest.mark.parametrize(
    ("schema", "value", "sentence"),
    [
        ("int", 2**31, "payload: 2147483648 is not within the range of int"),
        ("int", "5", "payload: '5' is not a whole number (int)"),
        ("int", True, "payload: True is not a whole number (int)"),
        ("long", Decimal("1E+999999999"), "is not within the range of long"),
        ("long", 1.5, "payload: 1.5 is not a whole number (long)"),
        ("string", 5, "payload: 5 is not text"),
        ("string", None, "payload: None is not text"),
        ("bytes", "no base64!", "is not bytes as base64"),
        ({"type": "fixed", "name": "F", "size": 2}, "AAH/", "is not 2 bytes as base64"),
        (MONEY, "12.505", "too many digits after the point"),
        (MONEY, "12345.00", "is not a decimal(6, 2): too many digits before the point"),
        (MONEY, "1E+999999999", "too many digits before the point"),
        (MONEY, "1E-999999999", "too many digits after the point"),
        (MONEY, "NaN", "is not a decimal number"),
        (logical("long", "timestamp-millis"), "2026-01-02T03:04:05", "with offset (RFC 3339)"),
        (logical("string", "uuid"), "x", "payload: 'x' is not a UUID"),
        ({"type": "enum", "name": "E", "symbols": ["a", "b"]}, "c", "'c' is not one of a, b"),
        (record({"name": "a", "type": "int"}), {}, "payload.a: it is missing"),
        (record(), {"b": 1}, "payload.b: record shop.Order has no such field"),
        (record({"name": "a", "type": ["null", LINE]}), {"a": {"sku": 1}}, "payload.a.sku: 1 is"),
        (record({"name": "a", "type": ["null", "int"]}), {"a": "x"}, "payload.a: 'x' is not a who"),
        (["int", "string"], [], "payload: [] is not of any type of the union"),
        ({"type": "array", "items": "int"}, [1, "x"], "payload[1]: 'x' is not a whole number"),
        (NODE, {"n": 1, "next": {"n": "x"}}, "payload.next.n: 'x' is not a whole number"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    schema: Any, value: object, sentence: str
) -> None:
    with pytest.raises(Misfit) as caught:
        Conversion(schema)(value)

    assert sentence in str(caught.value)


def test_fields_that_the_schema_does_not_have_can_be_left_out() -> None:
    assert Conversion(record(), ignore_unknown=True)({"b": 1}) == {}


def test_types_of_other_schemas_are_found_by_their_names() -> None:
    schema = record({"name": "lines", "type": {"type": "array", "items": "shop.Line"}})
    convert = Conversion(schema, {"shop.Line": {**LINE, "namespace": "shop"}})

    assert convert({"lines": [{"sku": "a"}]}) == {"lines": [{"sku": "a"}]}


@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers(1, 40), st.integers(0, 20))
def test_a_decimal_is_kept_exactly_or_refused(value: Decimal, precision: int, scale: int) -> None:
    scale = min(scale, precision)
    convert = Conversion(logical("bytes", "decimal", precision=precision, scale=scale))
    try:
        converted = convert(json.loads(json.dumps(str(value))))
    except Misfit:
        digits = value.normalize().as_tuple()
        exponent = int(digits.exponent)
        assert -exponent > scale or len(digits.digits) + exponent > precision - scale
    else:
        assert converted == value
        assert converted.as_tuple().exponent == -scale
