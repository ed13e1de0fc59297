"""Each fault is planted in a real Kafka, and found; where there is none, none is found."""

from __future__ import annotations

import uuid

import pytest

from outbox.errors import ConfigurationError, OutboxError
from outbox.store.lanes import Lane
from tests.verify.world import Parcel, World

pytestmark = [pytest.mark.kafka]

KEYS = ("a", "b", "c", "d")


def test_nothing_is_wrong_where_nothing_is_wrong(any_world: World) -> None:
    any_world.write(*KEYS * 5, None, None)
    any_world.send()
    any_world.write(*KEYS)
    any_world.send()

    topic = any_world.verdict()

    assert topic.faults == 0
    assert (topic.messages, topic.found, topic.records) == (26, 26, 26)
    assert (topic.again, topic.foreign) == (0, 0)


def test_a_message_that_never_arrived_is_missing(any_world: World) -> None:
    # Given a relay that takes a message for delivered which it has not sent
    any_world.write(*KEYS * 3)
    lost: list[Parcel] = []

    def lose(parcels: list[Parcel]) -> list[Parcel]:
        lost.append(parcels.pop(5))
        return parcels

    any_world.send(lose)

    # When the topic is compared
    report = any_world.verify()

    # Then the message is named
    (topic,) = report.topics
    assert (topic.missing, topic.found, topic.faults) == (1, 11, 1)
    (finding,) = report.findings
    assert (finding.kind, finding.id, finding.key) == (
        "missing",
        lost[0].header("id"),
        lost[0].key,
    )
    assert finding.seq == int(lost[0].header("outbox-position").rpartition("/")[2])


def test_what_is_not_delivered_yet_is_not_missing(any_world: World) -> None:
    any_world.write("a", "b")
    any_world.send()
    any_world.write("c", "d", "e")

    topic = any_world.verdict()

    assert (topic.faults, topic.found, topic.waiting) == (0, 2, 3)


def test_what_was_sent_and_not_saved_yet_is_no_fault(any_world: World) -> None:
    """As when a relay is at work, or was killed."""
    any_world.write(*KEYS)
    any_world.send()
    any_world.write(*KEYS)
    any_world.send(saved=False)

    topic = any_world.verdict()
    assert (topic.faults, topic.found, topic.waiting, topic.again) == (0, 4, 4, 0)

    # And when it is sent again, that is explained
    any_world.send()
    topic = any_world.verdict()
    assert (topic.faults, topic.found, topic.resent) == (0, 8, 4)


def test_what_is_committed_and_sent_meanwhile_is_not_unknown(postgresql_world: World) -> None:
    # Given a transaction that has drawn a number in the midst of others, and has not ended
    slow = postgresql_world.kit.writer()
    postgresql_world.write("a")
    slow.execute("begin")
    postgresql_world.kit.write(slow, "slow", topic=postgresql_world.topic)
    postgresql_world.write("b")
    postgresql_world.send()
    asked: list[str] = []

    # When it commits after the log was read, and is sent before the topic is
    def progress(what: str, _done: int, _of: int | None) -> None:
        asked.append(what)
        if len(asked) == 1:
            slow.execute("commit")
            postgresql_world.write("c")
            postgresql_world.send()

    topic = postgresql_world.verdict(progress=progress)

    # Then it is no message that nobody wrote
    assert (topic.faults, topic.found, topic.records, topic.foreign) == (0, 2, 4, 1)


def test_messages_that_the_log_no_longer_keeps_are_not_unknown(any_world: World) -> None:
    any_world.write(*KEYS)
    any_world.send()
    any_world.kit.age(2 * 86_400)
    any_world.kit.store().prune()
    any_world.write("a")
    any_world.send()

    topic = any_world.verdict()

    assert (topic.messages, topic.faults, topic.foreign) == (1, 0, topic.records - 1)


def test_held_messages_are_not_missing(any_world: World) -> None:
    # Given a message that was put aside when the cursor passed it
    any_world.write("a", "b")
    any_world.send(lambda parcels: parcels[:1])
    names = any_world.kit.names
    any_world.kit.writer().execute(
        f"""insert into {names["outbox_held"]}
                   (relay, lane, seq, created_at, id, topic, key, state, blocks)
            select 'default', 'default', seq, created_at, id, topic, key, 'dead', true
              from {names["outbox_message"]} where key = 'b'"""
    )

    topic = any_world.verdict()

    assert (topic.faults, topic.found, topic.held) == (0, 1, 1)


def test_a_record_that_came_twice_out_of_the_row_is_repeated(any_world: World) -> None:
    # Given a record in the middle that is sent once more at the end
    any_world.write(*KEYS * 3)
    sent = any_world.send()
    any_world.produce([sent[2]])

    report = any_world.verify()

    (topic,) = report.topics
    assert (topic.repeated, topic.resent, topic.faults) == (1, 0, 1)
    (finding,) = report.findings
    assert (finding.kind, finding.id, finding.key) == ("repeated", sent[2].header("id"), "c")


def test_a_piece_that_was_sent_again_as_a_whole_is_explained(any_world: World) -> None:
    # Given a relay that died before it had saved its position, twice
    any_world.write(*KEYS * 3, None, None)
    any_world.send(lambda parcels: [*parcels[:10], *parcels[4:8], *parcels[4:]])

    topic = any_world.verdict()

    assert (topic.faults, topic.repeated) == (0, 0)
    assert (topic.again, topic.resent, topic.found) == (10, 10, 14)


def test_two_messages_of_a_key_that_changed_places_are_out_of_order(any_world: World) -> None:
    any_world.write("a", "b", "a", "b")

    def swap(parcels: list[Parcel]) -> list[Parcel]:
        parcels[0], parcels[2] = parcels[2], parcels[0]
        return parcels

    sent = any_world.send(swap)

    report = any_world.verify()

    (topic,) = report.topics
    assert (topic.out_of_order, topic.faults) == (1, 1)
    (finding,) = report.findings
    assert (finding.kind, finding.id, finding.key) == ("out of order", sent[2].header("id"), "a")


def test_messages_of_different_keys_have_no_order(any_world: World) -> None:
    any_world.write("a", "b", "c", "d")
    any_world.send(lambda parcels: parcels[::-1])

    assert any_world.verdict().faults == 0


def test_an_altered_id_is_a_message_missing_and_one_that_nobody_wrote(any_world: World) -> None:
    any_world.write(*KEYS)
    altered = str(uuid.uuid4())

    def alter(parcels: list[Parcel]) -> list[Parcel]:
        parcels[1] = parcels[1].with_header("id", altered)
        return parcels

    any_world.send(alter)

    report = any_world.verify()

    (topic,) = report.topics
    assert (topic.missing, topic.unknown, topic.faults) == (1, 1, 2)
    assert {(finding.kind, finding.id == altered) for finding in report.findings} == {
        ("missing", False),
        ("unknown", True),
    }


def test_two_ids_that_changed_places_are_misplaced(any_world: World) -> None:
    any_world.write("a", "b")

    def swap_ids(parcels: list[Parcel]) -> list[Parcel]:
        first, second = (parcel.header("id") for parcel in parcels)
        return [parcels[0].with_header("id", second), parcels[1].with_header("id", first)]

    any_world.send(swap_ids)

    topic = any_world.verdict()

    assert (topic.misplaced, topic.missing) == (2, 0)


def test_a_message_at_two_positions_is_misplaced(postgresql_world: World) -> None:
    """A batch that was cut anew after a crash: consumers that go by positions lose messages."""
    postgresql_world.write("a", "b")
    sent = postgresql_world.send()
    prefix, batch, seq = sent[1].header("outbox-position").rsplit("/", 2)
    postgresql_world.produce(
        [sent[1].with_header("outbox-position", f"{prefix}/{int(batch) + 1}/{seq}")]
    )

    topic = postgresql_world.verdict()

    assert (topic.misplaced, topic.resent) == (1, 1)


def test_what_the_topic_has_deleted_is_not_missing(any_world: World) -> None:
    # Given a topic whose oldest records were deleted, of one partition all of them
    any_world.write(*KEYS * 5, None)
    any_world.send()
    ends = {
        message.partition(): message.offset() + 1
        for message in any_world.kafka.read(any_world.topic)
    }
    emptied = max(ends, key=lambda partition: ends[partition])
    shortened = {partition: 1 for partition in ends if partition != emptied}
    any_world.delete_records({emptied: ends[emptied], **shortened})

    topic = any_world.verdict()

    gone = ends[emptied] + len(shortened)
    assert (topic.faults, topic.no_longer_there, topic.found) == (0, gone, 21 - gone)


def test_what_is_missing_of_a_partition_that_is_whole_is_missing(any_world: World) -> None:
    # Given a partition that begins later, and another one that lacks a record
    any_world.write(*KEYS * 5)
    any_world.send(lambda parcels: [each for each in parcels if each is not parcels[2]])
    places = {
        message.key(): message.partition() for message in any_world.kafka.read(any_world.topic)
    }
    other = next(part for part in sorted(set(places.values())) if part != places[b"c"])
    any_world.delete_records({other: 1})

    topic = any_world.verdict()

    assert (topic.missing, topic.no_longer_there) == (1, 1)


def test_a_compacted_topic_keeps_the_last_of_each_key(any_world: World) -> None:
    # Given a compacted topic from which all but the last were removed, and a key's last one too
    any_world.topic = any_world.kafka.create_topic(partitions=1, cleanup_policy="compact")
    any_world.write("a", "b", "a", "b", "c")
    any_world.send(lambda parcels: parcels[2:4])

    report = any_world.verify()

    (topic,) = report.topics
    assert (topic.found, topic.no_longer_there, topic.missing) == (2, 2, 1)
    assert report.findings[0].key == "c"


def test_records_of_an_aborted_transaction_are_not_there(any_world: World) -> None:
    # Given messages that were only sent in a transaction that was aborted
    any_world.write(*KEYS)
    any_world.send(lambda parcels: parcels[:2])
    any_world.write("e")
    aborted: list[Parcel] = []

    def abort(parcels: list[Parcel]) -> list[Parcel]:
        aborted.extend(parcels)
        any_world.produce(parcels, end="abort")
        return []

    any_world.send(abort)

    # Then they are missing for who reads what is committed, and there for who reads all
    committed = any_world.verdict()
    assert (committed.missing, committed.found) == (3, 2)
    everything = any_world.verdict(isolation="read_uncommitted")
    assert (everything.missing, everything.found) == (2, 3)


def test_an_aborted_first_attempt_is_no_repetition(any_world: World) -> None:
    any_world.write(*KEYS)

    def twice(parcels: list[Parcel]) -> list[Parcel]:
        any_world.produce(parcels, end="abort")
        return parcels

    any_world.send(twice)

    assert (any_world.verdict().again, any_world.verdict().faults) == (0, 0)


def test_an_open_transaction_is_said_and_not_taken_for_a_loss(sqlite_world: World) -> None:
    sqlite_world.write("a")
    sqlite_world.send()
    sqlite_world.produce([Parcel("a", b"x", ())], end="open")

    with pytest.raises(OutboxError, match="an open transaction hides the end"):
        sqlite_world.verify(timeout_s=2.0)
    sqlite_world.end_transactions()
    assert sqlite_world.verdict().faults == 0


def test_records_of_others_are_left_alone(any_world: World) -> None:
    # Given another producer, another log of the same relay name, and another relay name
    any_world.write("a", "b")
    sent = any_world.send()
    position = sent[0].header("outbox-position").split("/")
    any_world.produce(
        [
            Parcel("a", b"no headers", ()),
            Parcel("a", b"own id", (("id", uuid.uuid4().bytes),)),
            Parcel("a", b"", (("id", str(uuid.uuid4()).encode()),)),
            _elsewhere(sent[0], [str(uuid.uuid4()), *position[1:]]),
            _elsewhere(sent[0], [position[0], "audit", *position[2:]]),
        ]
    )

    topic = any_world.verdict()

    assert (topic.faults, topic.found, topic.foreign, topic.again) == (0, 2, 5, 0)


def _elsewhere(parcel: Parcel, position: list[str]) -> Parcel:
    stranger = parcel.with_header("outbox-position", "/".join(position))
    return stranger.with_header("id", str(uuid.uuid4()))


def test_what_another_relay_name_sent_to_the_same_topic_is_neither_found_nor_repeated(
    any_world: World,
) -> None:
    any_world.kit.store().create_relay("audit", "earliest")
    any_world.write("a", "b")
    any_world.send(relay="audit")
    assert any_world.verdict(relay="default").waiting == 2
    any_world.send(lambda _: [], relay="default")

    assert any_world.verdict(relay="audit").faults == 0
    assert any_world.verdict(relay="default").missing == 2


def test_the_same_id_written_twice_is_expected_twice(any_world: World) -> None:
    log = any_world.kit.names["outbox_message"]
    writer = any_world.kit.writer()
    id_ = str(uuid.uuid4())
    for key in ("'k'", "null"):
        for _ in range(2):
            writer.execute(
                f"insert into {log} (id, topic, key, payload)"
                f" values ('{id_}', '{any_world.topic}', {key}, {_bytes(any_world)})"
            )
    any_world.send(lambda parcels: [each.with_header("outbox-position", None) for each in parcels])

    topic = any_world.verdict()
    assert (topic.faults, topic.found) == (0, 4)


def _bytes(world: World) -> str:
    return "'\\x00'::bytea" if world.kit.has_snapshots else "x'00'"


def test_what_goes_without_a_position_is_told_by_its_id(any_world: World) -> None:
    """As messages do that were requeued or replayed."""
    any_world.write(*KEYS)
    sent = any_world.send()
    any_world.produce([each.with_header("outbox-position", None) for each in sent[1:3]])

    topic = any_world.verdict()

    assert (topic.faults, topic.again, topic.requeued) == (0, 2, 2)


def test_a_topic_that_does_not_exist_lacks_everything(any_world: World) -> None:
    any_world.topic = "never-made"
    any_world.write("a", "b")
    any_world.send(lambda _: [])

    report = any_world.verify()

    (topic,) = report.topics
    assert (topic.exists, topic.missing) == (False, 2)
    assert "does not exist" in report.findings[0].what


def test_findings_are_limited_and_all_are_counted(any_world: World) -> None:
    any_world.write(*KEYS * 5)
    any_world.send(lambda _: [])

    report = any_world.verify(limit=3)

    assert (report.topics[0].missing, len(report.findings)) == (20, 3)


def test_only_the_topics_and_times_that_are_asked_for_are_compared(any_world: World) -> None:
    # Given messages of a day ago that were never sent, and others of now
    any_world.write(*KEYS)
    any_world.send(lambda _: [])
    any_world.kit.age(86_400 / 2)
    any_world.write(*KEYS)
    any_world.send()
    ((now,),) = any_world.kit.writer().execute(
        "select extract(epoch from now())::float8"
        if any_world.kit.has_snapshots
        else "select (julianday('now') - 2440587.5) * 86400.0"
    )

    # Then each part has its own verdict
    assert any_world.verdict(since=now - 3600).faults == 0
    assert any_world.verdict(since=now - 3600).found == 4
    assert any_world.verdict(until=now - 3600).missing == 4
    assert any_world.verdict().missing == 4
    assert any_world.verdict(topics=("other",)).messages == 0


def test_another_cluster_than_the_relays_is_refused(any_world: World) -> None:
    any_world.write("a")
    store = any_world.kit.store()
    lease = store.acquire("default", "default", "test", 10.0)
    store.bind_cluster(lease, "another")
    store.release(lease, lease.position)

    with pytest.raises(ConfigurationError, match="publishes to Kafka cluster 'another'"):
        any_world.verify()


def test_what_was_written_before_a_relay_name_began_is_not_missing(any_world: World) -> None:
    any_world.write("a", "b")
    any_world.kit.age(3600)
    any_world.kit.store().create_relay("audit", "latest")
    any_world.write("c")
    any_world.send(relay="audit")

    topic = any_world.verdict(relay="audit")

    assert (topic.faults, topic.found, topic.earlier) == (0, 1, 2)


def test_each_lane_has_progress_of_its_own(any_world: World) -> None:
    # Given a message that is delivered, and lanes that come later
    any_world.write("a")
    any_world.send()
    lanes = [Lane("default"), Lane("bulk", shards=2 if any_world.kit.has_snapshots else 1)]
    any_world.kit.store().change_lanes(lanes)
    any_world.write("b")
    any_world.kit.writer().execute(
        f"insert into outbox_message (topic, key, payload, lane)"
        f" values ('{any_world.topic}', 'c', {_bytes(any_world)}, 'bulk')"
    )

    # When one lane has delivered and the other has not
    any_world.send()
    topic = any_world.verdict()

    # Then what waits is not missing
    assert (topic.faults, topic.found, topic.waiting) == (0, 2, 1)

    # And what the other lane loses is
    for stream in lanes[1].streams:
        any_world.send(lambda _: [], stream=stream)
    topic = any_world.verdict()
    assert (topic.missing, topic.found, topic.waiting) == (1, 2, 0)
