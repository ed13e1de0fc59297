"""The figures of a relay: counted by page, weighed, clamped, and forgotten when they are old."""

from __future__ import annotations

import time
from dataclasses import replace
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families

from outbox.message import Message
from outbox.metrics import catalogue
from outbox.metrics.catalogue import METRICS
from outbox.metrics.delays import SAMPLES, delays, time_of
from outbox.metrics.figures import MOST_SERIES, REST
from outbox.metrics.monitor import RelayMonitor
from outbox.metrics.prometheus import Exposition
from outbox.metrics.sample import HeldSample, LaneSample, Sample
from outbox.record import Page, Position, Record

NOW = 1_800_000_000.0


def made(ago_s: float) -> str:
    """Return a UUIDv7 made so long before NOW."""
    milliseconds = round((NOW - ago_s) * 1000)
    return str(UUID(int=(milliseconds << 80) | (7 << 76) | (2 << 62)))


def record(seq: int, message_id: str = "", topic: str = "orders") -> Record:
    return Record(seq, message_id, topic, "k", b"x", *[None] * 6, 0)


def page(*records: Record, batch: int = 1) -> Page:
    return Page(batch, records, Position(batch, len(records)))


def series(monitor: RelayMonitor) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return what a scrape gives, read by Prometheus' own parser."""
    body, _ = Exposition(monitor.figures).render("")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def one(monitor: RelayMonitor, name: str, **labels: str) -> float:
    return series(monitor)[name, tuple(sorted({"relay": "default", **labels}.items()))]


@pytest.fixture
def monitor() -> RelayMonitor:
    return RelayMonitor("default", wall_clock=lambda: NOW)


def test_the_time_in_an_id_is_read_as_the_library_that_made_it_wrote_it() -> None:
    before = time.time()
    made_at = time_of(Message("orders", 1).id_text)
    assert made_at is not None
    assert before - 0.001 <= made_at <= time.time()
    assert time_of("5c146b14-3c52-4afd-938a-375d0df1fbf6") is None
    assert time_of("") is None
    # SQLite takes any text for an id, and one that stopped the relay would be sent again for ever.
    assert time_of("message-000000700") is None


def test_few_messages_of_a_page_stand_for_all() -> None:
    # Given a page whose messages were made one after the other
    records = [record(i, made(ago_s=2000 - i)) for i in range(2000)]
    # When
    found = list(delays(records, NOW))
    # Then few are looked at, every message is stood for, and the mean is that of all
    assert len(found) == SAMPLES
    assert sum(weight for _, weight in found) == 2000
    mean = sum((delay or 0) * weight for delay, weight in found) / 2000
    assert mean == pytest.approx(1000.5, rel=0.001)


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 1999])
def test_every_message_is_stood_for_whatever_the_size_of_the_page(count: int) -> None:
    records = [record(i, made(1)) for i in range(count)]
    assert sum(weight for _, weight in delays(records, NOW)) == count


def test_a_page_is_counted_by_topic_and_weighed_into_the_histograms(monitor: RelayMonitor) -> None:
    # Given 30 messages to one topic and 10 to another, of which half were made 0.2 s ago
    records = [record(i, made(0.2), "a") for i in range(20)]
    records += [record(20 + i, made(4.0), "a" if i < 10 else "b") for i in range(20)]
    sent = page(*records)
    # When they were sent
    monitor.sent(sent)
    assert one(monitor, "outbox_inflight_messages") == 40
    monitor.settled(sent, 0.03)
    # Then
    assert one(monitor, "outbox_inflight_messages") == 0
    assert one(monitor, "outbox_messages_sent_total", topic="a") == 30
    assert one(monitor, "outbox_messages_sent_total", topic="b") == 10
    assert one(monitor, "outbox_publish_delay_seconds_bucket", le="0.25") == 20
    assert one(monitor, "outbox_publish_delay_seconds_bucket", le="5.0") == 40
    assert one(monitor, "outbox_publish_delay_seconds_count") == 40
    assert one(monitor, "outbox_publish_delay_seconds_sum") == pytest.approx(84)
    assert one(monitor, "outbox_send_duration_seconds_count") == 1
    assert one(monitor, "outbox_send_duration_seconds_bucket", le="0.025") == 0
    assert one(monitor, "outbox_send_duration_seconds_bucket", le="0.05") == 1


def test_a_batch_of_several_pages_is_one(monitor: RelayMonitor) -> None:
    for batch in (7, 7, 8):
        monitor.sent(page(record(1), batch=batch))
    assert one(monitor, "outbox_batches_total") == 2


def test_a_clock_that_is_ahead_is_counted_and_not_believed(monitor: RelayMonitor) -> None:
    monitor.settled(page(record(1, made(-30)), record(2, made(1))), 0.1)
    assert one(monitor, "outbox_publish_delay_negative_total") == 1
    assert one(monitor, "outbox_publish_delay_seconds_bucket", le="0.01") == 1
    assert one(monitor, "outbox_publish_delay_seconds_sum") == pytest.approx(1)


def test_ids_without_a_time_are_counted(monitor: RelayMonitor) -> None:
    monitor.settled(page(record(1, "5c146b14-3c52-4afd-938a-375d0df1fbf6")), 0.1)
    assert one(monitor, "outbox_publish_delay_unknown_total") == 1
    assert one(monitor, "outbox_publish_delay_seconds_count") == 0


def test_topics_without_end_do_not_fill_the_memory(monitor: RelayMonitor) -> None:
    for n in range(MOST_SERIES + 50):
        monitor.settled(page(record(1, topic=f"customer-{n}")), 0.1)
    assert one(monitor, "outbox_messages_sent_total", topic=REST) == 50


def test_a_term_that_ends_leaves_neither_the_lane_nor_anything_in_flight(
    monitor: RelayMonitor,
) -> None:
    monitor.began_term("default", 3)
    monitor.sent(page(record(1)))
    assert one(monitor, "outbox_relay_leader", lane="default") == 1
    assert monitor.lanes == {"default": 3}
    monitor.ended_term("default")
    assert one(monitor, "outbox_relay_leader", lane="default") == 0
    assert monitor.lanes == {}
    assert one(monitor, "outbox_inflight_messages") == 0


def test_lanes_that_nobody_holds_are_told_of_and_those_that_are_gone_are_not(
    monitor: RelayMonitor,
) -> None:
    def leaders() -> dict[str, float]:
        readings = monitor.figures.readings(catalogue.LEADER)
        return {reading.labels[0]: reading.value for reading in readings}

    def sampled(*lanes: str) -> None:
        monitor.sampled(Sample(NOW, tuple(LaneSample(lane, 0, True, None) for lane in lanes), 1, 1))

    # Given a relay that holds one of two lanes
    monitor.began_term("default", 1)
    sampled("default", "urgent")
    assert leaders() == {"default": 1, "urgent": 0}
    # When the lane that it held gets shards, and is not there any more
    monitor.ended_term("default")
    monitor.began_term("default:0", 1)
    sampled("default:0", "default:1", "urgent")
    # Then nothing is said of it
    assert leaders() == {"default:0": 1, "default:1": 0, "urgent": 0}
    # And on standby, where nobody looks which lanes there are, nothing of any
    monitor.ended_term("default:0")
    monitor.stands_by()
    assert leaders() == {}


def test_one_thing_is_waited_for_at_a_time_and_since_when_stays(monitor: RelayMonitor) -> None:
    monitor.failed("broker")
    monitor.troubled("broker", "first")
    monitor.troubled("broker", "again")
    assert monitor.trouble is not None
    assert monitor.trouble.reason == "first"
    monitor.troubled("database", "then this")
    waiting = {
        cause: one(monitor, "outbox_relay_waiting", cause=cause)
        for cause in ("database", "broker", "topic")
    }
    assert waiting == {"database": 1, "broker": 0, "topic": 0}
    monitor.recovered()
    assert monitor.trouble is None
    assert one(monitor, "outbox_relay_waiting", cause="database") == 0
    assert one(monitor, "outbox_relay_failures_total", cause="broker") == 1


def test_a_standby_has_no_trouble_of_its_own(monitor: RelayMonitor) -> None:
    """What it waited for before is the trouble of the one that holds the lane now."""
    monitor.troubled("broker", "away")
    monitor.stands_by()
    assert (monitor.trouble, monitor.wants_samples) == (None, False)
    assert one(monitor, "outbox_relay_waiting", cause="broker") == 0


def test_an_old_sample_is_not_shown_as_the_present(monitor: RelayMonitor) -> None:
    sample = Sample(
        NOW, (LaneSample("default", 5, True, 2.5),), 2, 4096, {"open": (3.0, 9.0)}, {"fast": 7}
    )
    monitor.sampled(replace(sample, scheduled=2, waiting=3, overdue_s=1.5))
    assert one(monitor, "outbox_messages_pending", lane="default") == 5
    assert one(monitor, "outbox_holding_transactions", kind="open") == 2
    assert one(monitor, "outbox_oldest_holding_transaction_age_seconds", kind="open") == 9
    assert one(monitor, "outbox_scheduled_messages", state="waiting") == 3
    assert one(monitor, "outbox_scheduled_overdue_seconds") == 1.5
    monitor.sample_failed()
    names = {name for name, _ in series(monitor)}
    assert not names & {metric.prometheus_name for metric in catalogue.SAMPLED}
    # But what was counted stays
    assert one(monitor, "outbox_undeclared_lane_messages_total", lane="fast") == 7
    assert one(monitor, "outbox_sample_failures_total") == 1


def test_series_that_are_known_beforehand_are_there_from_the_start(monitor: RelayMonitor) -> None:
    """A counter that appears with its first event is no event to `increase()`."""
    names = {name for name, _ in series(monitor)}
    missing = {
        metric.prometheus_name
        for metric in METRICS
        if metric.kind != "histogram"
        and metric not in catalogue.SAMPLED
        and metric.prometheus_name not in names
    }
    assert missing == {
        "outbox_messages_sent_total",
        "outbox_relay_leader",
        "outbox_topic_closed",
        "outbox_undeclared_lane_messages_total",
    }


def test_what_becomes_of_messages_that_are_held_is_counted(monitor: RelayMonitor) -> None:
    # Given messages that were put aside
    monitor.held({"retrying": 2, "blocked": 5, "dead": 1})
    # When two of them are tried again, and one arrives while the other dies
    monitor.retried([record(1, made(90), "a")], {"dead": 1})
    # Then
    held = {s: one(monitor, "outbox_messages_held_total", state=s) for s in catalogue.HELD.values}
    assert held == {"retrying": 2, "blocked": 5, "dead": 1, "expired": 0}
    assert one(monitor, "outbox_messages_retried_total", outcome="delivered") == 1
    assert one(monitor, "outbox_messages_retried_total", outcome="failed") == 1
    assert one(monitor, "outbox_messages_given_up_total") == 2
    # And what arrived late was sent like any other, so late
    assert one(monitor, "outbox_messages_sent_total", topic="a") == 1
    assert one(monitor, "outbox_publish_delay_seconds_sum") == pytest.approx(90)


def test_a_topic_has_a_series_while_it_is_waited_for(monitor: RelayMonitor) -> None:
    monitor.closed({"a", "b"})
    assert one(monitor, "outbox_topic_closed", topic="a") == 1
    monitor.closed({"b"})
    assert [each.labels for each in monitor.figures.readings(catalogue.TOPIC_CLOSED)] == [("b",)]


def test_how_it_publishes_and_that_it_was_fenced_is_told() -> None:
    monitor = RelayMonitor("default", delivery="exactly-once")
    monitor.fenced()
    assert one(monitor, "outbox_relay_delivery", delivery="exactly-once") == 1
    assert one(monitor, "outbox_relay_fenced_total") == 1


def test_what_lies_aside_is_told_and_forgotten_with_the_sample(monitor: RelayMonitor) -> None:
    held = HeldSample({"retrying": 3, "blocked": 9, "dead": 1, "expired": 0}, {"dead": 70.0}, 4)
    monitor.sampled(
        Sample(NOW, (), 1, 10, held=held, pauses={"topic": 2}, oldest_pause_s=100_000.0)
    )
    assert one(monitor, "outbox_held_messages", state="blocked") == 9
    assert one(monitor, "outbox_oldest_held_age_seconds", state="dead") == 70
    assert one(monitor, "outbox_oldest_held_age_seconds", state="retrying") == 0
    assert one(monitor, "outbox_held_keys") == 4
    assert one(monitor, "outbox_pauses", of="topic") == 2
    assert one(monitor, "outbox_pauses", of="lane") == 0
    assert one(monitor, "outbox_oldest_pause_age_seconds") == 100_000
    monitor.sample_failed()
    assert not [name for name, _ in series(monitor) if "held_messages" in name]


def test_every_metric_is_in_the_catalogue_once_and_explains_itself() -> None:
    names = [metric.prometheus_name for metric in METRICS]
    declared = {value for value in vars(catalogue).values() if isinstance(value, catalogue.Metric)}
    assert len(set(names)) == len(names)
    assert set(METRICS) == declared
    assert all(len(metric.meaning) > 20 for metric in METRICS)
