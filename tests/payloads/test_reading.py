"""What a Topic reads from received JSON, and how it says what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from outbox import PayloadNotReadable, Topic
from outbox.inbox import ReceivedMessage
from outbox.serialization.serializer import JsonSerializer

SOME_ID = UUID("019aa1e0-0000-7000-8000-000000000001")
ROOT = Path(__file__).parents[2]
Sku = NewType("Sku", str)


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    sku: Sku
    price: Decimal


@dataclass
class Order:
    id: UUID
    at: datetime
    lines: list[Line]
    day: date = date(2026, 1, 2)
    until: time | None = None
    colour: Colour = Colour.RED
    kind: Literal["a", 1] = "a"
    parent: Order | None = None
    tags: dict[str, int] = field(default_factory=dict)
    pair: tuple[int, str] = (1, "x")
    many: tuple[int, ...] = ()
    weight: Annotated[float, "kg"] = 1.0
    anything: Any = None


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    id: UUID
    price: Decimal
    lines: list[Line] = []


class Struct(msgspec.Struct, tag="struct", rename="camel", omit_defaults=True):
    id: UUID
    placed_at: datetime
    price: Decimal
    lines: list[Line] = []
    note: str | msgspec.UnsetType = msgspec.UNSET
    more: int = 0


class Row(msgspec.Struct, array_like=True):
    a: int
    b: Decimal


@attrs.define
class Attrs:
    id: UUID
    _hidden: int = 3


class Document(TypedDict):
    id: UUID
    note: NotRequired[str]


class Point(NamedTuple):
    x: int


NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
LINES = [Line(Sku("a"), Decimal("1.20"))]
ORDER = Order(SOME_ID, NOW, LINES, parent=Order(SOME_ID, NOW, []), tags={"a": 1}, many=(1, 2))


def received(payload: bytes | None, type: str | None = None, **headers: bytes) -> ReceivedMessage:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return ReceivedMessage("1", "orders", 0, 0, payload=payload, headers=named, type=type)


def read(wanted: Any, value: object) -> Any:
    return Topic("orders", wanted).decode(received(json.dumps(value).encode()))


def refusal(wanted: Any, value: object) -> str:
    with pytest.raises(PayloadNotReadable) as caught:
        read(wanted, value)
    return str(caught.value)


@pytest.mark.parametrize(
    "payload",
    [
        ORDER,
        Model(id=SOME_ID, price=Decimal("1.20"), lines=LINES),
        Struct(SOME_ID, NOW, Decimal("1.20"), LINES),
        Struct(SOME_ID, NOW, Decimal("1.20"), note="n", more=1),
        Attrs(SOME_ID, 4),
        Document(id=SOME_ID),
        Document(id=SOME_ID, note="n"),
        {"a": [1, None, 2.5, "x"]},
        [1, 2],
        "text",
    ],
    ids=lambda payload: type(payload).__name__,
)
def test_what_the_serializer_writes_is_read_as_the_same_also_with_more_fields(
    payload: Any,
) -> None:
    wanted = Document if isinstance(payload, dict) and "id" in payload else type(payload)
    written = json.loads(JsonSerializer().serialize(payload))
    if isinstance(written, dict) and wanted is not dict:
        written["a field of a newer version"] = 1

    assert read(wanted, written) == payload


def test_a_struct_is_laid_out_as_msgspec_does() -> None:
    for struct in (
        Struct(SOME_ID, NOW, Decimal("1.20"), LINES),
        Struct(SOME_ID, NOW, Decimal("1.20"), note="n", more=1),
        Row(1, Decimal("1.20")),
    ):
        ours = json.loads(JsonSerializer().serialize(struct))
        theirs = json.loads(msgspec.json.encode(struct))
        # Both are RFC 3339; msgspec writes Z where we write +00:00.
        if isinstance(ours, dict):
            ours["placedAt"] = theirs["placedAt"]
        assert ours == theirs


def test_neither_library_is_loaded_for_those_who_do_not_use_it() -> None:
    code = (
        "import sys, dataclasses\n"
        "from outbox import Message, Outbox, Topic\n"
        "from outbox.inbox import ReceivedMessage\n"
        "from outbox.serialization.serializer import JsonSerializer\n"
        "@dataclasses.dataclass\n"
        "class A:\n    a: int\n"
        "data = JsonSerializer().serialize(Message(Topic('t', A), A(1)).payload)\n"
        "assert Topic('t', A).decode(ReceivedMessage('1', 't', 0, 0, payload=data)) == A(1)\n"
        "print([n for n in ('msgspec', 'pydantic', 'attr', 'confluent_kafka') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_numbers_of_other_languages_are_taken_where_nothing_is_lost() -> None:
    assert read(Line, {"sku": "a", "price": 1.1}).price == Decimal("1.1")
    assert read(list[int], [1.0]) == [1]
    assert read(list[float], [1]) == [1.0]


@pytest.mark.parametrize(
    ("wanted", "value", "sentence"),
    [
        (Order, {"id": "x"}, "payload.id must be a UUID as text, not str 'x'"),
        (Order, {"id": str(SOME_ID)}, "payload.at is missing (Order)"),
        (Order, [], "payload must be an object (Order), not list []"),
        (list[Line], [{"sku": 1, "price": 1}], "payload[0].sku must be str, not int 1"),
        (Line, {"sku": "a", "price": "x"}, "payload.price must be a decimal number as text"),
        (list[int], [True], "payload[0] must be int, not bool True"),
        (list[int], [1.5], "payload[0] must be int, not float 1.5"),
        (dict[str, int], {"a": "b"}, "payload.a must be int, not str 'b'"),
        (list[Colour], ["blue"], "payload[0] must be one of 'red', not str 'blue'"),
        (list[Line | None], [{"sku": "a"}], "payload[0].price is missing (Line)"),
        (list[int | None], ["a"], "payload[0] must be int | None, not str 'a'"),
        (tuple[int, str], [1], "payload must be a list of 2, not list [1]"),
        (Model, {"id": str(SOME_ID), "price": "x"}, "payload.price: Input should be a valid"),
        (Struct, {"type": "struct", "id": 1}, "payload.id: Expected `uuid`, got `int`"),
        (Attrs, {}, "payload.id is missing (Attrs)"),
        (Document, {"note": "n"}, "payload.id is missing (Document)"),
        (list[Point], [[1]], "Point cannot be read from JSON"),
    ],
)
def test_what_does_not_fit_names_topic_and_field(wanted: Any, value: object, sentence: str) -> None:
    said = refusal(wanted, value)

    assert said.startswith("topic 'orders': ")
    assert sentence in said


def test_what_a_class_itself_checks_is_said_with_the_place() -> None:
    @dataclass
    class Positive:
        value: int

        def __post_init__(self) -> None:
            if self.value < 0:
                raise ValueError("must not be negative")

    assert "payload[1] (" in refusal(list[Positive], [{"value": 1}, {"value": -1}])


def test_a_tombstone_is_named_as_such() -> None:
    with pytest.raises(PayloadNotReadable, match="a tombstone has no payload"):
        Topic("orders", Order).decode(received(None))


def test_what_is_no_json_is_named_as_such() -> None:
    for payload, content_type, sentence in (
        (b"{", b"application/json", "is not JSON"),
        (b"\xff", b"", "is not JSON"),
        (b"\0\0\0\0\1x", b"application/vnd.apache.avro+binary", "only JSON is read here"),
    ):
        with pytest.raises(PayloadNotReadable, match=sentence):
            Topic("orders", Order).decode(received(payload, content_type=content_type))


def test_the_types_of_messages_tell_the_kinds_apart() -> None:
    placed = Topic("orders", Line, type="placed")
    both = placed | Topic("orders", Attrs, type="moved")

    assert both.decode(received(b'{"id":"%s"}' % str(SOME_ID).encode(), "moved")).id == SOME_ID
    for topic in (placed, both):
        with pytest.raises(PayloadNotReadable, match="'paid' is none that this Topic knows"):
            topic.decode(received(b"{}", "paid"))


def test_a_json_that_a_registrys_client_framed_is_read() -> None:
    assert Topic("n", list[int]).decode(received(b"\0\0\0\0\7[1]")) == [1]


def test_bytes_are_given_as_they_are() -> None:
    assert Topic("raw", bytes).decode(received(b"\xff", content_type=b"image/png")) == b"\xff"
