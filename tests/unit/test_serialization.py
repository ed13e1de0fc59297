"""The JSON on the wire is a contract; what does not fit raises, naming the place."""

from __future__ import annotations

import collections
import enum
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outbox.errors import PayloadNotSerializable
from outbox.serialization.serializer import JsonSerializer

INDIA = timezone(timedelta(hours=5, minutes=30))


class Colour(enum.Enum):
    RED = "red"
    EXACT = Decimal("0.10")


class Word(str, enum.Enum):  # noqa: UP042  unlike a StrEnum, str() of it gives its name
    YES = "yes"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass
class Line:
    sku: str
    price: object


class Order(pydantic.BaseModel):
    id: UUID
    total: Decimal
    placed_at: datetime
    lines: list[Line] = []


class Anything(pydantic.BaseModel):
    value: Any


def serialize(payload: object) -> str:
    """Serialize as the Outbox does by default."""
    return JsonSerializer().serialize(payload).decode()


def refusal(payload: object) -> str:
    """Return the sentence with which the payload is refused."""
    with pytest.raises(PayloadNotSerializable) as caught:
        JsonSerializer().serialize(payload)
    return str(caught.value)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"a": [1, 2.5, True, None]}, '{"a":[1,2.5,true,null]}'),
        ("straße ✓ \u2028", '"straße ✓ \u2028"'),
        ("\0", '"\\u0000"'),
        (Decimal("10.00"), '"10.00"'),
        (Decimal("1E+3"), '"1E+3"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '"2026-01-02T03:04:05+00:00"'),
        (datetime(2026, 1, 2, 3, 4, 5, 60, tzinfo=INDIA), '"2026-01-02T03:04:05.000060+05:30"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(3, 4, 5), '"03:04:05"'),
        ([Colour.RED, Colour.EXACT, Word.YES, Level.HIGH], '["red","0.10","yes",3]'),
        ((1, 2), "[1,2]"),
        ({1: "a", Word.YES: "b"}, '{"1":"a","yes":"b"}'),
        ({}, "{}"),
        (0, "0"),
        ("", '""'),
        (False, "false"),
    ],
)
def test_the_json_is_what_the_contract_says(payload: object, text: str) -> None:
    """Compact, UTF-8 and not escaped, numbers that must be exact as text."""
    assert serialize(payload) == text


def test_an_offset_with_seconds_becomes_utc() -> None:
    """RFC 3339 has none such; the moment stays the same."""
    local_mean_time = timezone(timedelta(minutes=19, seconds=32))

    assert serialize(datetime(1890, 1, 1, tzinfo=local_mean_time)) == '"1889-12-31T23:40:28+00:00"'


def test_dataclasses_and_pydantic_models_are_objects_by_the_same_rules() -> None:
    """At any depth, within each other."""
    order = Order(
        id=UUID(int=7),
        total=Decimal("1.20"),
        placed_at=datetime(2026, 1, 1, tzinfo=UTC),
        lines=[Line("a", Decimal("1.20"))],
    )

    assert json.loads(serialize({"order": order, "line": Line("b", order)})) == {
        "order": {
            "id": "00000000-0000-0000-0000-000000000007",
            "total": "1.20",
            "placed_at": "2026-01-01T00:00:00+00:00",
            "lines": [{"sku": "a", "price": "1.20"}],
        },
        "line": {
            "sku": "b",
            "price": {
                "id": "00000000-0000-0000-0000-000000000007",
                "total": "1.20",
                "placed_at": "2026-01-01T00:00:00+00:00",
                "lines": [{"sku": "a", "price": "1.20"}],
            },
        },
    }


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        ({"items": [1, 2, {"price": float("nan")}]}, "payload.items[2].price: float nan has no"),
        ({"x": float("-inf")}, "payload.x: float -inf has no JSON"),
        (Decimal("NaN"), "payload: Decimal NaN has no JSON; leave it out or send null"),
        ({"a b": {"é": Decimal("Infinity")}}, "payload['a b'].é: Decimal Infinity has no JSON"),
        ({"at": datetime(2026, 1, 1)}, "payload.at: datetime 2026-01-01T00:00:00 has no time zone"),  # noqa: DTZ001  the point
        (Line("a", object()), "payload.price: type object (<object object at"),
        ([Anything(value={1, 2})], "payload[0].value: type set ({1, 2}) has no JSON; use a list"),
        ({"raw": b"x"}, "payload.raw: type bytes (b'x') has no JSON; use text, for example base64"),
        ({"d": timedelta(1)}, "payload.d: type timedelta (datetime.timedelta(days=1)) has no JSON"),
        ({"c": 1j}, "payload.c: type complex (1j) has no JSON; convert it to str, int"),
        ({"m": MappingProxyType({})}, "payload.m: type mappingproxy"),
        ({"q": collections.deque([1])}, "payload.q: type deque"),
        ({"class": Line}, "payload.class: the class Line itself"),
        ({"class": Order}, "payload.class: the class Order itself"),
        ({(1, 2): 3}, "payload: the key (1, 2) is of type tuple; JSON keys are text, use str()"),
        ({"a": {UUID(int=0): 3}}, "payload.a: the key UUID("),
        ({float("inf"): 1}, "payload: the key inf: float inf has no JSON"),
        ({"a": "x\ud800"}, "payload.a: the text contains a lone surrogate"),
        ({"\ud800": 1}, "payload: the key '\\ud800': the text contains a lone surrogate"),
    ],
)
def test_a_fault_is_named_with_its_place(payload: object, sentence: str) -> None:
    """Which field, what it is, what to do."""
    assert refusal(payload).startswith(sentence)


def test_the_first_fault_is_named() -> None:
    """In the order in which the payload reads."""
    assert refusal({"a": [1, {"b": b""}], "c": b""}).startswith("payload.a[1].b:")


def test_a_structure_that_contains_itself_is_refused() -> None:
    """In lists, dicts and dataclasses, with the place where it closes."""
    looped: list[object] = []
    looped.append({"again": looped})
    line = Line("a", None)
    line.price = [line]

    assert refusal(looped).startswith("payload[0].again: the structure contains itself")
    assert refusal(line).startswith("payload.price[0]: the structure contains itself")


def test_the_same_object_twice_is_no_cycle() -> None:
    """Only what is its own ancestor is."""
    shared = {"a": 1}

    assert serialize([shared, shared]) == '[{"a":1},{"a":1}]'
    assert refusal([shared, shared, b""]).startswith("payload[2]:")


def test_what_is_nested_too_deeply_is_refused() -> None:
    """With a sentence, not with a RecursionError."""
    deep: list[object] = []
    for _ in range(200 * sys.getrecursionlimit()):
        deep = [deep]

    assert "levels deep; flatten it" in refusal(deep)


def test_a_model_that_never_stops_unfolding_is_refused() -> None:
    """The search for the fault ends, too."""

    class Endless:
        def model_dump(self, mode: str) -> dict[str, Endless]:
            return {mode: Endless()}

    assert "levels deep; flatten it" in refusal(Endless())


def test_a_models_own_error_is_named_with_its_place() -> None:
    """A serializer of the model's may raise."""

    class Moody:
        def model_dump(self, mode: str) -> object:
            raise ValueError(f"not in {mode}")

    assert refusal({"a": [Moody()]}) == "payload.a[0]: not in python"


def test_a_fault_leaves_nothing_behind() -> None:
    """The encoder is shared: after a refusal it serves the next payload as if nothing was."""
    payload = {"a": [1, {"b": 2}]}
    for _ in range(3):
        refusal({"inner": payload, "bad": b""})

        assert serialize(payload) == '{"a":[1,{"b":2}]}'


def test_threads_share_one_serializer() -> None:
    """One Outbox serves a whole process."""
    serializer = JsonSerializer()
    payloads = [{"n": n, "lines": [Line(str(n), Decimal(n))] * 20} for n in range(200)]
    expected = [serializer.serialize(payload) for payload in payloads]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(serializer.serialize, payloads * 5))

    assert results == expected * 5


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=("Cs",))),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",))), inner)
        ),
    )
)
def test_plain_json_reads_back_as_it_was(payload: object) -> None:
    """And is what the standard library would have written."""
    text = serialize(payload)

    assert json.loads(text) == payload
    assert text == json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
