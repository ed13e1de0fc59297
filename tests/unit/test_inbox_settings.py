"""What an Inbox and an InboxConsumer refuse before they do anything."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from typing import Any

import confluent_kafka
import pytest

from outbox.errors import ConfigurationError, MissingExtra
from outbox.inbox import Inbox, InboxConsumer
from outbox.inbox.settings import consumer_settings

SERVERS = {"bootstrap.servers": "localhost:1"}


def consumer(**changes: Any) -> InboxConsumer[None]:
    settings: dict[str, Any] = {
        "transaction_factory": nullcontext,
        "kafka": SERVERS,
        "topics": ["orders"],
    }
    return InboxConsumer(Inbox("billing"), **{**settings, **changes})


def test_the_group_is_the_consumer_and_begins_with_the_earliest_message() -> None:
    settings = consumer_settings(SERVERS, group="billing")
    assert settings["group.id"] == "billing"
    assert settings["auto.offset.reset"] == "earliest"
    assert settings["enable.auto.commit"] is False
    assert settings["enable.auto.offset.store"] is False


def test_other_properties_are_the_users() -> None:
    given = {**SERVERS, "group.id": "other", "auto.offset.reset": "latest"}
    given["isolation.level"] = "read_uncommitted"
    settings = consumer_settings(given, group="billing")
    assert given.items() <= settings.items()


@pytest.mark.parametrize("name", ["enable.auto.commit", "enable.auto.offset.store"])
@pytest.mark.parametrize("value", [True, "true", 1])
def test_committing_offsets_early_is_refused_with_the_reason(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}.*would lose the message"):
        consumer(kafka={**SERVERS, name: value})


@pytest.mark.parametrize("value", [False, "false"])
def test_saying_what_holds_anyway_is_no_error(value: object) -> None:
    consumer_settings({**SERVERS, "enable.auto.commit": value}, group="billing")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"kafka": {}}, 'needs the property "bootstrap.servers"'),
        ({"kafka": "localhost:9092"}, "must be a dict"),
        ({"kafka": {**SERVERS, "no.such.thing": "1"}}, "no.such.thing"),
        ({"topics": "orders"}, r"pass \['orders'\]"),
        ({"topics": []}, "topics is empty"),
        ({"topics": ["orders", ""]}, "not a topic's name"),
        ({"retry_delay": 0}, "do not fit"),
        ({"retry_delay": 2.0, "max_retry_delay": 1.0}, "do not fit"),
    ],
)
def test_wrong_settings_are_refused_when_the_consumer_is_made(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        consumer(**changes)


def test_without_confluent_kafka_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(MissingExtra, match=r'pip install "outbox-relay\[kafka\]"'):
        consumer()


def test_a_client_that_an_instrumentor_put_in_the_way_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Instrumented(confluent_kafka.Consumer):  # type: ignore[misc] # has no types
        def __init__(self, *_: object) -> None:
            pytest.fail("the instrumented client was made")

    monkeypatch.setattr(confluent_kafka, "Consumer", Instrumented)
    consumer().close()


def test_a_coroutine_function_is_refused_before_a_message_is_taken() -> None:
    async def handler(transaction: None, message: object) -> None: ...

    with (
        consumer() as made,
        pytest.raises(TypeError, match=r"coroutine.*record_async"),
    ):
        made.run_once(handler, timeout=0)  # type: ignore[arg-type] # which is the point


def test_closing_twice_is_legal() -> None:
    made = consumer()
    made.close()
    made.close()


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ü"])
def test_a_consumers_name_is_checked(name: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid name"):
        Inbox(name)


def test_the_mode_by_position_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not available in this version"):
        Inbox("billing", mode="position")  # type: ignore[arg-type] # not in the type either


def test_names_of_tables_are_checked() -> None:
    with pytest.raises(ConfigurationError, match="table_prefix"):
        Inbox("billing", table_prefix="x; drop table")
