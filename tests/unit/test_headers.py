"""Headers: what may be set, what is stored, what goes on the wire."""

from __future__ import annotations

import enum
import json

import pytest

from outbox.errors import InvalidMessage, MessageRefused
from outbox.headers import check_headers, wire_headers


class Tenant(str, enum.Enum):  # noqa: UP042  unlike a StrEnum, str() of it gives its name
    """A str that str() shows as something else."""

    ACME = "acme"


def test_a_mapping_is_stored_as_a_flat_object() -> None:
    """Which is what people query."""
    pairs, stored = check_headers({"tenant": "ü"})

    assert pairs == (("tenant", "ü"),)
    assert stored == '{"tenant":"ü"}'


def test_a_sequence_is_stored_with_its_order_and_repetition() -> None:
    """A jsonb object would keep neither."""
    pairs, stored = check_headers([("b", "1"), ["a", "2"], ("b", "3")])

    assert pairs == (("b", "1"), ("a", "2"), ("b", "3"))
    assert stored == '[["b","1"],["a","2"],["b","3"]]'


@pytest.mark.parametrize("empty", [{}, [], ()])
def test_no_headers_are_stored_as_null(empty: object) -> None:
    """Nothing is nothing."""
    assert check_headers(empty) == ((), None)


def test_text_is_kept_as_plain_text() -> None:
    """A driver may store the name of an enum instead of its value."""
    pairs, _ = check_headers({"tenant": Tenant.ACME})

    assert type(pairs[0][1]) is str
    assert pairs[0][1] == "acme"


@pytest.mark.parametrize(
    ("headers", "sentence"),
    [
        ("a=b", "headers must be a mapping or a sequence of (name, value) pairs, not str"),
        (17, "headers must be a mapping or a sequence of (name, value) pairs, not int"),
        ([("a",)], "header ('a',) is not a (name, value) pair"),
        (["ab"], "header 'ab' is not a (name, value) pair"),
        ([3], "header 3 is not a (name, value) pair"),
        ({1: "x"}, "header name 1 must be str, not int"),
        ({"": "x"}, "header name '' is not valid: use printable ASCII"),
        ({"ü": "x"}, "header name 'ü' is not valid: use printable ASCII"),
        ({"a\n": "x"}, r"header name 'a\n' is not valid"),
        ({"a\0": "x"}, r"header name 'a\x00' is not valid"),
        ({" a": "x"}, "header name ' a' is not valid"),
        ({"a": b"x"}, "header 'a': the value must be str, not bytes; decode it first"),
        ({"a": 1}, "header 'a': the value must be str, not int; convert it first"),
        ({"a": None}, "header 'a': the value must be str, not NoneType; convert it first"),
        ({"a": "\0"}, r"header 'a': '\x00' contains U+0000"),
        ({"a": "\ud800"}, r"header 'a': '\ud800' contains a lone surrogate"),
        ({f"h{n}": "" for n in range(65)}, "65 headers are too many: at most 64 fit"),
    ],
)
def test_malformed_headers_are_refused(headers: object, sentence: str) -> None:
    """At the call, naming the header."""
    with pytest.raises(InvalidMessage) as caught:
        check_headers(headers)

    assert sentence in str(caught.value)


def test_64_headers_fit() -> None:
    """The limit itself is allowed."""
    assert len(check_headers({f"h{n}": "" for n in range(64)})[0]) == 64


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("id", "use the argument id="),
        ("ID", "use the argument id="),
        ("type", "use the argument type="),
        ("Content-Type", "use the argument content_type="),
        ("TraceParent", "it is taken from the current trace context"),
        ("tracestate", "it is taken from the current trace context"),
        ("outbox-position", "names beginning with outbox- are ours"),
        ("Outbox-Anything", "names beginning with outbox- are ours"),
    ],
)
def test_reserved_names_are_refused_in_any_case(name: str, hint: str) -> None:
    """With the way to say it instead."""
    with pytest.raises(InvalidMessage) as caught:
        check_headers({name: "x"})

    assert str(caught.value) == f"header name {name!r} is reserved: {hint}"


def test_names_that_only_look_reserved_are_taken() -> None:
    """Nothing is reserved beyond need."""
    names = ["identity", "x-id", "outbox", "content-types"]

    assert [name for name, _ in check_headers(dict.fromkeys(names, "x"))[0]] == names


def test_ours_come_first_on_the_wire_and_in_a_fixed_order() -> None:
    """Then the user's, in theirs."""
    wire = wire_headers("i", "t", "c", "tp", "ts", "p", '[["b","2"],["a","ü"],["b","3"]]')

    assert wire == [
        ("id", b"i"),
        ("type", b"t"),
        ("content-type", b"c"),
        ("traceparent", b"tp"),
        ("tracestate", b"ts"),
        ("outbox-position", b"p"),
        ("b", b"2"),
        ("a", "ü".encode()),
        ("b", b"3"),
    ]


def test_a_null_column_sends_no_header() -> None:
    """Only the id is always there."""
    assert wire_headers("i", None, None, None, None, None, None) == [("id", b"i")]


def test_ours_win_over_what_plain_sql_stored() -> None:
    """Exactly one of each: some clients read the first, others the last."""
    stored = json.dumps(
        {"ID": "x", "TraceParent": "x", "Outbox-Position": "x", "content-type": "x", "mine": "x"}
    )

    assert wire_headers("i", None, None, "tp", None, None, stored) == [
        ("id", b"i"),
        ("traceparent", b"tp"),
        ("mine", b"x"),
    ]


def test_what_plain_sql_stored_is_sent_as_json_text() -> None:
    """A number is its text, an object compact JSON, null a null header."""
    stored = '{"n": 1, "b": true, "o": {"ü": [1, 2]}, "null": null, "s": "text"}'

    assert wire_headers("i", None, None, None, None, None, stored)[1:] == [
        ("n", b"1"),
        ("b", b"true"),
        ("o", '{"ü":[1,2]}'.encode()),
        ("null", None),
        ("s", b"text"),
    ]


@pytest.mark.parametrize(
    "stored", ['["a", "b"]', '[["a"]]', "[1]", '{"a": "\\ud800"}', "{", '[[1, "x"]]', "3"]
)
def test_what_are_no_headers_is_the_messages_fault(stored: str) -> None:
    """Not dropped: the relay holds the message, with this reason."""
    with pytest.raises(MessageRefused, match="the column headers holds"):
        wire_headers("i", None, None, None, None, None, stored)
