"""A publisher that encodes keeps the promises of the one behind it, and sends all of a page or
nothing."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from outbox.encoding import EncodingPublisher, Encodings, RegistryUnavailable, TopicRule
from outbox.errors import MessageRefused
from outbox.publishers.memory import MemoryPublisher
from tests.conformance.publisher_kit import PREFIX, TIMEOUT_S, Sending, Tally, some_records
from tests.conformance.publisher_suite import PublisherKit, PublisherSuite
from tests.conformance.test_publishers import MemoryKit
from tests.payloads.records import AVRO, ORDER, new_topic, record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.registry import SchemaRegistry


class EncodingKit(MemoryKit):
    """Memory, behind a publisher that encodes, though not these topics."""

    def publisher(self, *, fails_at: int | None = None) -> EncodingPublisher:  # type: ignore[override]  # it is one around it
        inner = MemoryPublisher(self.published, fail_at=fails_at)
        publisher = EncodingPublisher(inner, Encodings((TopicRule("none.*", "none"),)))
        publisher.connect(TIMEOUT_S)
        return publisher


class TestEncodingPublisher(PublisherSuite):
    @pytest.fixture
    def kit(self) -> EncodingKit:
        return EncodingKit()

    def test_publish_stops_when_its_check_raises(self, kit: PublisherKit) -> None:
        # Given a check that raises the third time, which is while the page is being encoded
        sending = Sending(kit.publisher())
        calls: list[int] = []

        def check() -> None:
            calls.append(1)
            if len(calls) == 3:
                raise InterruptedError("the lease ran out")

        # When a large page is published
        with pytest.raises(InterruptedError, match="the lease ran out"):
            sending.publish(some_records("orders", 1_000), check)
        sending.publisher.flush(TIMEOUT_S)

        # Then nothing of it is sent
        assert kit.read("orders") == []


def test_a_message_that_cannot_be_encoded_is_refused_and_nothing_of_its_page_is_sent(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    topic = new_topic()
    (tmp_path / "order.avsc").write_text(AVRO)
    rule = TopicRule(topic, "avro", schema=str(tmp_path / "order.avsc"), register=True)
    inner = MemoryPublisher()
    page = [record(topic, ORDER), record(topic, ORDER | {"total": "x"}), record(topic, ORDER)]
    with closing(Encodings((rule,), {"url": registry.url})) as encodings:
        publisher = EncodingPublisher(inner, encodings)
        with pytest.raises(MessageRefused) as caught:
            publisher.publish(page, PREFIX, Tally(), lambda: None)
        publisher.flush(TIMEOUT_S)

    said = str(caught.value)
    assert inner.published == []
    assert said.startswith(f"message {page[1].id} for topic '{topic}' cannot be encoded as avro (")
    assert f"order.avsc, subject {topic}-value): payload.total: 'x' is not a decimal" in said


def test_a_registry_that_is_away_sends_nothing_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "order.avsc").write_text(AVRO)
    rule = TopicRule("orders", "avro", schema=str(tmp_path / "order.avsc"))
    inner = MemoryPublisher()
    with closing(Encodings((rule,), {"url": "http://127.0.0.1:9"})) as encodings:
        publisher = EncodingPublisher(inner, encodings)
        with pytest.raises(RegistryUnavailable):
            publisher.publish(
                [record("others", b"1"), record("orders", ORDER)], PREFIX, Tally(), lambda: None
            )
        publisher.flush(TIMEOUT_S)

    assert inner.published == []
