"""What counts as expected, and what is said when it is not there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from unittest import mock
from uuid import UUID

import pytest

from outbox import Outbox, Topic
from outbox.testing import OutboxLog, containing
from tests.integration.writing import Database

events = Outbox()

CUSTOMER = UUID("01890000-0000-7000-8000-000000000000")
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Placed:
    """A payload with a type."""

    order: int
    total: Decimal


@pytest.fixture
def connection(sqlite: Database) -> Iterator[sqlite3.Connection]:
    """Give a transaction that is never committed."""
    with closing(sqlite3.connect(sqlite.path)) as opened:
        yield opened


@pytest.fixture
def log(connection: sqlite3.Connection) -> OutboxLog:
    """Give a log with one order in it."""
    found = OutboxLog(connection)
    payload = {
        "order": 1,
        "total": Decimal("9.90"),
        "customer": CUSTOMER,
        "at": NOON,
        "lines": [{"sku": "tea", "count": 2}, {"sku": "cup", "count": 1}],
    }
    events.add(
        connection,
        "orders",
        payload,
        key=CUSTOMER,
        type="order.placed",
        headers=[("tenant", "acme"), ("tenant", "acme-eu")],
    )
    return found


def failure(log: OutboxLog, *arguments: Any, **expected: Any) -> str:
    """Return what the assertion says."""
    with pytest.raises(AssertionError) as raised:
        log.assert_added(*arguments, **expected)
    return str(raised.value)


@pytest.mark.parametrize(
    "expected",
    [
        {"key": CUSTOMER},
        {"key": str(CUSTOMER)},
        {"key": mock.ANY},
        {"type": "order.placed"},
        {"type": lambda found: found.startswith("order.")},
        {"headers": {"tenant": "acme-eu"}},
        {"headers": [("tenant", "acme"), ("tenant", "acme-eu")]},
        {"headers": containing({"tenant": str})} | {"headers": lambda h: "tenant" in h},
        {"payload": containing({"order": 1, "total": Decimal("9.90")})},
        {"payload": containing({"customer": CUSTOMER, "at": NOON})},
        {"payload": containing({"lines": containing([containing({"sku": "cup"})])})},
        {"payload": lambda payload: payload["order"] == 1},
        {"payload": mock.ANY},
    ],
)
def test_this_is_expected(log: OutboxLog, expected: dict[str, object]) -> None:
    """In whichever words the test has it."""
    log.assert_added("orders", **expected)  # type: ignore[call-overload]  # of several kinds
    assert len(log.added(**expected)) == 1  # type: ignore[arg-type]  # as above
    with pytest.raises(AssertionError):
        log.refute_added("orders", **expected)  # type: ignore[arg-type]  # as above


@pytest.mark.parametrize(
    "expected",
    [
        {"key": "ada"},
        {"key": None},
        {"type": None},
        {"type": "order"},
        {"headers": None},
        {"headers": {"tenant": "other"}},
        {"headers": {"nothing": mock.ANY}},
        {"headers": [("tenant", "other")]},
        {"payload": None},
        {"payload": {"order": 1}},
        {"payload": b"{}"},
        {"payload": containing({"order": 2})},
        {"payload": containing({"nothing": mock.ANY})},
        {"payload": containing({"lines": containing([containing({"sku": "pot"})])})},
        {"payload": containing([1])},
        {"payload": lambda payload: payload["order"] == 2},
    ],
)
def test_this_is_not(log: OutboxLog, expected: dict[str, object]) -> None:
    """And the failure says what is there instead."""
    assert "orders: key=" in failure(log, "orders", **expected)
    log.refute_added("orders", **expected)  # type: ignore[arg-type]  # of several kinds


def test_a_payload_equals_what_serializes_to_it(connection: sqlite3.Connection) -> None:
    """And bytes are compared with bytes, also where they are JSON."""
    log = OutboxLog(connection)
    events.add(connection, "orders", Placed(1, Decimal("9.90")))
    events.add(connection, "images", b"\xff\x00")
    events.add(connection, "orders", None, key="ada")

    log.assert_added("orders", payload=Placed(1, Decimal("9.90")))
    log.assert_added("orders", payload={"order": 1, "total": "9.90"})
    log.assert_added("orders", payload=b'{"order":1,"total":"9.90"}', key=None)
    log.refute_added("orders", payload=b'{"order": 1, "total": "9.90"}')
    assert log.assert_added("images", payload=b"\xff\x00").data == b"\xff\x00"
    assert log.assert_added("orders", payload=None).key == "ada"


def test_a_declared_topic_stands_for_its_name(log: OutboxLog) -> None:
    """As it does in `add`."""
    log.assert_added(Topic("orders", dict))
    log.refute_added(Topic("invoices", dict))


def test_the_failure_shows_what_differs_nearest_first(
    connection: sqlite3.Connection,
) -> None:
    """Line by line, with the same topic before others."""
    # Given messages that are wrong in different ways
    log = OutboxLog(connection)
    events.add(connection, "invoices", {"order": 2, "to": "ada"}, key="ada")
    events.add(connection, "orders", {"order": 1, "to": "ben"}, key="ben")
    events.add(connection, "orders", {"order": 1, "to": "ada"}, key="ada", type="order.placed")

    # When none of them is what was expected, then all of it is there to read
    assert failure(log, "orders", key="ada", payload={"order": 2, "to": "ada"}) == (
        "no message was added to topic 'orders' with key='ada', payload={'order': 2, 'to': 'ada'}\n"
        "3 messages were added otherwise, nearest first:\n"
        "  orders: key='ada', payload={'order': 1, 'to': 'ada'}, type='order.placed'\n"
        "      payload (- expected, + added):\n"
        "          {\n"
        "        -   'order': 2,\n"
        "        +   'order': 1,\n"
        "            'to': 'ada',\n"
        "          }\n"
        "  orders: key='ben', payload={'order': 1, 'to': 'ben'}\n"
        "      key (- expected, + added):\n"
        "        - 'ada'\n"
        "        + 'ben'\n"
        "      payload (- expected, + added):\n"
        "          {\n"
        "        -   'order': 2,\n"
        "        +   'order': 1,\n"
        "        -   'to': 'ada',\n"
        "        +   'to': 'ben',\n"
        "          }\n"
        "  invoices: key='ada', payload={'order': 2, 'to': 'ada'}"
    )


def test_of_a_part_only_the_part_is_compared(log: OutboxLog) -> None:
    """What was not asked for does not hide what was."""
    said = failure(log, "orders", payload=containing({"order": 2, "total": Decimal("9.90")}))

    _, _, differences = said.partition("payload (- expected, + added):\n")
    assert differences == (
        "          {\n"
        "        -   'order': 2,\n"
        "        +   'order': 1,\n"
        "            'total': '9.90',\n"
        "          }"
    )


def test_of_headers_those_asked_for_are_compared(connection: sqlite3.Connection) -> None:
    """As of a part of the payload."""
    log = OutboxLog(connection)
    events.add(connection, "orders", 1, headers={"tenant": "acme", "region": "eu"})

    said = failure(log, "orders", headers={"tenant": "other"})

    _, _, differences = said.partition("headers (- expected, + added):\n")
    assert differences == (
        "          {\n        -   'tenant': 'other',\n        +   'tenant': 'acme',\n          }"
    )


def test_a_function_that_says_no_is_named(log: OutboxLog) -> None:
    """There is nothing to compare."""

    def has_three_lines(payload: Any) -> bool:
        return len(payload["lines"]) == 3

    said = failure(log, "orders", payload=has_three_lines)

    assert said.startswith("no message was added to topic 'orders' with payload=has_three_lines\n")
    assert said.endswith("      payload: the function says no")


def test_an_empty_log_says_so(connection: sqlite3.Connection) -> None:
    """In few words."""
    assert failure(OutboxLog(connection), "orders") == (
        "no message was added to topic 'orders'\nnothing else was added"
    )


def test_a_wrong_count_is_shown(log: OutboxLog, connection: sqlite3.Connection) -> None:
    """With those that were counted, and those that were not."""
    events.add(connection, "orders", {"order": 2})

    said = failure(log, "orders", count=1, payload=containing({"order": 2}), key="ada")
    assert said.startswith(
        "1 message should have been added to topic 'orders' with key='ada', "
        "payload=containing({'order': 2}), and 0 were\n"
        "2 messages were added otherwise, nearest first:\n"
        "  orders: key=None, payload={'order': 2}\n"
    )
    said = failure(log, "orders", count=3)
    assert said.startswith("3 messages should have been added to topic 'orders', and 2 were:\n")
    assert said.endswith("\nnothing else was added")
    assert log.assert_added("invoices", count=0) == []
    with pytest.raises(TypeError, match="count must be a number"):
        log.assert_added("orders", count="2")  # type: ignore[call-overload]  # on purpose


def test_what_should_not_be_there_is_shown(connection: sqlite3.Connection) -> None:
    """And of very many messages only some."""
    log = OutboxLog(connection)
    for number in range(12):
        events.add(connection, "orders", {"order": number})

    with pytest.raises(AssertionError) as raised:
        log.refute_added()

    lines = str(raised.value).splitlines()
    assert lines[0] == "no message should have been added, and 12 were:"
    assert lines[1] == "  orders: key=None, payload={'order': 0}"
    assert lines[-1] == "  … and 2 more"
    assert len(lines) == 12


def test_a_long_payload_is_cut(connection: sqlite3.Connection) -> None:
    """In the line; a failure is to be read."""
    log = OutboxLog(connection)
    events.add(connection, "orders", {"text": "x" * 1000})

    said = failure(log, "invoices")

    assert "… (1012 characters)" in said
    assert len(said) < 500


def test_a_misspelt_expectation_is_a_type_error(log: OutboxLog) -> None:
    """And is not taken for anything."""
    with pytest.raises(TypeError, match="paylod"):
        log.assert_added("orders", paylod={})  # type: ignore[call-overload]  # on purpose


def test_containing_takes_a_mapping_or_a_list() -> None:
    """A text contains letters, which nobody means."""
    with pytest.raises(TypeError, match="takes a mapping or a list, not str"):
        containing("order")
    assert repr(containing({"a": 1})) == "containing({'a': 1})"
