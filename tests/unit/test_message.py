"""A message is checked when it is made, in the caller's words."""

from __future__ import annotations

import dataclasses
import enum
import os
import pickle
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING
from unittest import mock
from uuid import UUID

import pytest
import uuid_utils
from sqlalchemy import func

from outbox.errors import InvalidMessage
from outbox.message import Message
from outbox.topic.topic import Topic

if TYPE_CHECKING:
    from collections.abc import Iterator

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Region(str, enum.Enum):  # noqa: UP042  unlike a StrEnum, str() of it gives its name
    """A str that str() shows as something else."""

    EU = "eu-west"


def test_what_is_not_given_is_none() -> None:
    """Topic and payload are all a message needs."""
    message = Message("orders", {"order": 1})

    assert (message.topic, message.payload) == ("orders", {"order": 1})
    assert (message.key, message.type, message.lane, message.content_type) == (None,) * 4
    assert message.headers == ()


def test_a_message_cannot_be_changed() -> None:
    """Frozen, so that what was checked is what is written."""
    message = Message("orders", b"")

    with pytest.raises(dataclasses.FrozenInstanceError):
        message.topic = "other"  # type: ignore[misc]  # that is the point


def test_a_copy_and_a_pickle_keep_everything() -> None:
    """Values such as these travel: through queues, caches, replace()."""
    message = Message("orders", {"a": 1}, key=7, headers=[("a", "b"), ("a", "c")], type="t")

    assert pickle.loads(pickle.dumps(message)) == message
    assert dataclasses.replace(message) == message
    assert dataclasses.replace(message, key="8").id == message.id


@pytest.mark.parametrize("name", ["deliver_at", "delay", "expires_at"])
def test_what_a_database_would_work_out_is_refused_in_our_words(name: str) -> None:
    """It cannot even be compared with None."""
    with pytest.raises(InvalidMessage, match=name):
        Message("orders", b"", **{name: func.now()})


@pytest.mark.parametrize("name", ["type", "content_type", "lane", "wait_for"])
def test_what_says_that_it_equals_none_is_not_taken_for_it(name: str) -> None:
    with pytest.raises(InvalidMessage, match=name):
        Message("orders", b"", **{name: mock.ANY})


def test_what_a_subclass_has_set_before_stays() -> None:
    class Tenanted(Message):
        tenant: str

        def __init__(self) -> None:
            object.__setattr__(self, "tenant", "acme")
            super().__init__("orders", b"")

    assert (Tenanted().tenant, Tenanted().topic) == ("acme", "orders")


def test_forked_processes_draw_different_ids() -> None:
    """As workers do whose server loads the application once; equal ids would be one message."""
    Message("orders", b"")  # what draws them has its state before the fork
    drawn = list(_drawn_by_forks(processes=8, each=200))

    assert len(set(drawn)) == len(drawn) == 1600


def _drawn_by_forks(processes: int, each: int) -> Iterator[str]:
    pipes = []
    for _ in range(processes):
        reader, writer = os.pipe()
        if os.fork() == 0:
            ids = " ".join(Message("orders", b"").id_text for _ in range(each))
            os.write(writer, ids.encode())
            os._exit(0)
        os.close(writer)
        pipes.append(reader)
    for reader in pipes:
        with os.fdopen(reader, "rb") as file:
            yield from file.read().decode().split()
    for _ in range(processes):
        os.wait()


@pytest.mark.parametrize("topic", ["a", "orders.placed-v1_B", "x" * 249])
def test_kafka_topic_names_are_taken(topic: str) -> None:
    """What Kafka takes."""
    assert Message(topic, b"").topic == topic


@pytest.mark.parametrize(
    ("topic", "sentence"),
    [
        ("", "topic is empty"),
        ("no spaces", "topic 'no spaces' is not a valid Kafka topic name: use 1 to 249 of the "),
        ("x" * 250, "is not a valid Kafka topic name"),
        (".", "topic '.' is not a valid Kafka topic name"),
        ("..", "topic '..' is not a valid Kafka topic name"),
        ("orders\n", r"topic 'orders\n' is not a valid Kafka topic name"),
        ("zahlungen/ü", "is not a valid Kafka topic name"),
        (None, "topic must be str, not NoneType"),
        (b"orders", "topic must be str, not bytes"),
        (["orders"], "topic must be str, not list"),
    ],
)
def test_a_bad_topic_is_refused(topic: object, sentence: str) -> None:
    """Kafka would refuse it later, when nobody can correct it."""
    with pytest.raises(InvalidMessage) as caught:
        Message(topic, b"")  # type: ignore[arg-type]  # that is the point

    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("customer-1", "customer-1"),
        ("", ""),
        ("ü" * 512, "ü" * 512),
        (42, "42"),
        (-1, "-1"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Region.EU, "eu-west"),
        (enum.IntEnum("Shard", {"ONE": 1}).ONE, "1"),
    ],
)
def test_a_key_becomes_text(key: str | int | UUID, text: str) -> None:
    """The same text whatever the type, since it decides the partition."""
    made = Message("orders", b"", key=key).key

    assert made == text
    assert type(made) is str


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        (True, "key must be str, int or UUID, not bool: True"),
        (1.0, "key must be str, int or UUID, not float: 1.0"),
        (b"k", "key must be str, int or UUID, not bytes: b'k'"),
        ("x" * 1025, "has 1025 bytes; at most 1024 fit"),
        ("ü" * 513, "has 1026 bytes; at most 1024 fit"),
        ("a\0b", r"key 'a\x00b' contains U+0000, which PostgreSQL cannot store"),
        ("a\ud800", r"key 'a\ud800' contains a lone surrogate (position 1)"),
    ],
)
def test_a_bad_key_is_refused(key: object, sentence: str) -> None:
    """Some would abort the caller's transaction, others fail in the relay."""
    with pytest.raises(InvalidMessage) as caught:
        Message("orders", b"", key=key)  # type: ignore[arg-type]  # that is the point

    assert sentence in str(caught.value)


@pytest.mark.parametrize("field", ["type", "content_type"])
@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (1, "{} must be str, not int"),
        ("a\0", "contains U+0000"),
        ("\udfff", "contains a lone surrogate"),
    ],
)
def test_bad_text_is_refused(field: str, value: object, sentence: str) -> None:
    """Every text of a message is stored and sent."""
    with pytest.raises(InvalidMessage) as caught:
        Message("orders", b"", **{field: value})  # type: ignore[arg-type]  # that is the point

    assert sentence.format(field) in str(caught.value)
    assert str(caught.value).startswith(field)


def test_a_tombstone_needs_a_key() -> None:
    """It deletes the key's value from a compacted topic; without a key it deletes nothing."""
    assert Message("orders", None, key=1).payload is None

    with pytest.raises(InvalidMessage, match=r"payload None is a tombstone.* it needs key="):
        Message("orders", None)


def test_ids_rise_and_never_repeat() -> None:
    """Version 7: later ids are greater, also within a millisecond."""
    ids = [Message("orders", b"").id for _ in range(5000)]

    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)


def test_an_id_is_a_proper_uuid_of_now() -> None:
    """Of the standard library's type, which drivers and serializers know."""
    before = int(time.time() * 1000)
    made = Message("orders", b"").id
    after = int(time.time() * 1000)

    assert type(made) is UUID
    assert (made.version, made.variant) == (7, UUID(int=0x8000 << 48).variant)
    assert before <= made.int >> 80 <= after
    assert UUID(str(made)) == made
    assert made.is_safe is UUID(int=0).is_safe


@pytest.mark.parametrize(
    "given",
    [
        UUID("0190163d-8694-739b-aea5-966c26f8ad90"),
        "0190163d-8694-739b-aea5-966c26f8ad90",
        uuid_utils.UUID("0190163d-8694-739b-aea5-966c26f8ad90"),
    ],
)
def test_an_id_may_be_given(given: UUID | str) -> None:
    """For an id that exists already, such as a command's."""
    assert Message("orders", b"", id=given).id == UUID("0190163d-8694-739b-aea5-966c26f8ad90")


@pytest.mark.parametrize("id", [17, "17", b"x" * 16, object()])
def test_a_bad_id_is_refused(id: object) -> None:
    """The database's column is a uuid."""
    with pytest.raises(InvalidMessage, match="id must be a UUID, not "):
        Message("orders", b"", id=id)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("lane", ["", "no spaces", "x" * 65, 3, "bulk\n"])
def test_a_bad_lane_name_is_refused(lane: object) -> None:
    """Lanes are names."""
    with pytest.raises(InvalidMessage, match=r"lane .* is not a valid name"):
        Message("orders", b"", lane=lane)  # type: ignore[arg-type]  # that is the point


def test_strict_ordering_needs_a_key() -> None:
    """There is no order without one."""
    assert Message("orders", b"", key=1, ordering="strict").ordering == "strict"

    with pytest.raises(InvalidMessage, match="it needs key="):
        Message("orders", b"", ordering="strict")
    with pytest.raises(InvalidMessage, match="ordering must be None or \"strict\", not 'total'"):
        Message("orders", b"", key=1, ordering="total")  # type: ignore[arg-type]  # the point


def test_what_a_message_waits_for_is_kept() -> None:
    """A copy of it with something else changed waits for the same."""
    given = Message("orders", b"", key=1, deliver_at=NOW, wait_for="payment-42")

    moved = replace(given, key="2")

    assert (moved.deliver_at, moved.delay, moved.wait_for) == (NOW, None, "payment-42")
    assert moved.is_scheduled
    assert Message("orders", b"", delay=timedelta(0)).is_scheduled
    assert not Message("orders", b"").is_scheduled


def test_a_typed_topic_can_wait_too() -> None:
    """What a Topic completes is not all that there is."""
    message = Message(Topic("orders", int), 7, delay=timedelta(hours=1))

    assert message.delay == timedelta(hours=1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"deliver_at": datetime(2026, 1, 1)}, "deliver_at 2026-01-01T00:00:00 has no time zone"),  # noqa: DTZ001  the point
        ({"expires_at": datetime(2026, 1, 1)}, "expires_at 2026-01-01T00:00:00 has no time zone"),  # noqa: DTZ001  the point
        ({"deliver_at": "tomorrow"}, "deliver_at must be a datetime, not str"),
        ({"deliver_at": NOW.date()}, "deliver_at must be a datetime, not date"),
        ({"expires_at": 0}, "expires_at must be a datetime, not int"),
        ({"delay": 5}, "delay must be a timedelta, not int: timedelta(seconds=…)"),
        ({"delay": timedelta(seconds=-1)}, "delay -1 day, 23:59:59 is negative"),
        ({"deliver_at": NOW, "delay": timedelta(1)}, "give one of them"),
        ({"wait_for": ""}, "wait_for '' is not a valid name"),
        ({"wait_for": 7}, "wait_for 7 is not a valid name"),
        ({"wait_for": "payment 42"}, "wait_for 'payment 42' is not a valid name"),
        ({"delay": timedelta.max}, "ends after the year 9999"),
        (
            {"deliver_at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))},
            "outside of the years 1 to 9999 in UTC",
        ),
    ],
)
def test_a_mistake_about_time_gets_its_own_sentence(
    arguments: dict[str, object], sentence: str
) -> None:
    """So that it is not taken for a missing feature."""
    with pytest.raises(InvalidMessage) as caught:
        Message("orders", b"", **arguments)  # type: ignore[arg-type]  # of several types

    assert sentence in str(caught.value)
