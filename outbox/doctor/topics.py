"""Checks of the topics of recent and waiting messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from outbox.doctor.check import NotChecked, Verdict, check, failed, warning
from outbox.doctor.patient import Patient
from outbox.publishers.diagnosis import TopicState
from outbox.publishers.kafka import DEFAULTS
from outbox.store.diagnosis import TopicUse
from outbox.writer.outbox import MAX_MESSAGE_BYTES

Topics: TypeAlias = list[tuple[TopicUse, TopicState]]

#: What the relay's headers and Kafka's framing add to a message, at the most.
_ADDED_BYTES = 700

#: A topic that takes timestamps only this close to the broker's time, in ms, is a trap.
_NARROW_MS = 60_000

_MAY_NOT_SEE = ("TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED")
_GRANT = "kafka-acls.sh --add --allow-principal User:… --producer --topic {}"


def existence(answer: tuple[Topics, bool]) -> Iterator[Verdict]:
    """Judge whether topics exist. `answer`: and whether sending to one creates it."""
    topics, creates = answer
    for use, state in topics:
        if state.error is None or state.error[0] in _MAY_NOT_SEE:
            continue
        waits = f", and {use.waiting} messages wait for it" if use.waiting else ""
        create = f"kafka-topics.sh --create --topic {state.topic} --replication-factor 3"
        say = warning if creates or not use.waiting else failed
        yield say(f"topic {state.topic}: {_plain(state.error[1])}{waits}", create)


def _plain(words: str) -> str:
    return words.removeprefix("Broker: ")


def rights(topics: Topics) -> Iterator[Verdict]:
    """Judge whether the relay may write."""
    for _, state in topics:
        grant = _GRANT.format(state.topic)
        if state.error is not None and state.error[0] in _MAY_NOT_SEE:
            yield failed(f"topic {state.topic}: the relay's user may not even see it", grant)
        elif state.may_write is False:
            yield failed(f"topic {state.topic}: the relay's user may not write to it", grant)


def leaders(topics: Topics) -> Iterator[Verdict]:
    """Judge whether the topic takes messages now."""
    for _, state in topics:
        least = _number(state.settings, "min.insync.replicas")
        if state.leaderless:
            yield failed(
                f"topic {state.topic}: {state.leaderless} partitions have no leader",
                "start the brokers that hold them",
            )
        elif least is None or state.error is not None:
            continue
        elif state.in_sync < min(least, state.replicas):
            yield failed(
                f"topic {state.topic}: {state.in_sync} replicas are in sync, and acks=all needs"
                f" {least} (min.insync.replicas): messages wait",
                "start the missing brokers",
            )
        elif least > state.replicas:  # 3.7 counts no more replicas than there are (KAFKA-15583)
            yield warning(
                f"topic {state.topic}: min.insync.replicas is {least}, and there are"
                f" {state.replicas} replicas: Kafka before 3.7 takes no message then, and later"
                f" versions do not wait for more than {state.replicas}",
                f"give it more than {least} replicas (kafka-reassign-partitions.sh)",
            )


def durability(topics: Topics) -> Iterator[Verdict]:
    """Judge what is lost with a broker. The relay's acks=all waits for replicas in sync."""
    for state in _readable(topics):
        least = _number(state.settings, "min.insync.replicas") or 1
        alter = f"kafka-configs.sh --alter --entity-type topics --entity-name {state.topic}"
        if state.replicas == 1:
            yield warning(
                f"topic {state.topic} has one replica: the loss of one disk loses its messages,"
                " and while its broker is down they wait",
                "give it 3 replicas (kafka-reassign-partitions.sh) and min.insync.replicas=2",
            )
        elif least == 1:
            yield warning(
                f"topic {state.topic}: min.insync.replicas is 1, so acks=all may mean one broker,"
                " and its loss loses messages that were confirmed",
                f"{alter} --add-config min.insync.replicas=2",
            )
        elif least >= state.replicas:
            yield warning(
                f"topic {state.topic}: min.insync.replicas is {least} of {state.replicas} replicas,"
                " so messages wait as soon as one broker is down",
                f"one replica more, or {alter} --add-config min.insync.replicas={least - 1}",
            )
        if (state.settings or {}).get("unclean.leader.election.enable") == "true":
            yield warning(
                f"topic {state.topic}: unclean.leader.election.enable is true, so a broker that is"
                " behind may become the leader, and confirmed messages are lost",
                f"{alter} --add-config unclean.leader.election.enable=false",
            )


_HELD = "is held, and what comes after it in its key waits"


def sizes(answer: tuple[Topics, int, bool]) -> Iterator[Verdict]:
    """Judge sizes. `answer`: topics, the client's `message.max.bytes`, whether it compresses."""
    topics, client_limit, compresses = answer
    for use, state in topics:
        limit = _number(state.settings, "max.message.bytes")
        largest = use.largest + _ADDED_BYTES
        if use.waiting and largest > client_limit:
            yield failed(
                f"topic {use.topic}: message {use.largest_id} has about {largest} bytes, and the"
                f" relay's message.max.bytes is {client_limit}: it {_HELD}",
                f"-X message.max.bytes={largest * 2}",
            )
        elif use.waiting and limit is not None and largest > limit and not compresses:
            yield failed(
                f"topic {use.topic}: message {use.largest_id} has about {largest} bytes, and the"
                f" topic's max.message.bytes is {limit}: it {_HELD}",
                _raise(use.topic, largest * 2),
            )
        elif limit is not None and limit < MAX_MESSAGE_BYTES:
            yield warning(
                f"topic {use.topic} takes {limit} bytes (max.message.bytes), and Outbox.add"
                f" {MAX_MESSAGE_BYTES} by default: one between the two would be held",
                f"{_raise(use.topic, DEFAULT_LIMIT)}; or write with Outbox(max_message_bytes="
                f"{max(limit - _ADDED_BYTES, 1)})",
            )


#: Kafka's own default, which has room for what `Outbox.add` takes.
DEFAULT_LIMIT = 1_048_588


def _raise(topic: str, limit: int) -> str:
    return (
        f"kafka-configs.sh --alter --entity-type topics --entity-name {topic}"
        f" --add-config max.message.bytes={limit}"
    )


def compaction(topics: Topics) -> Iterator[Verdict]:
    """Judge messages without a key for a topic that keeps the last of each key."""
    for use, state in topics:
        if use.keyless and "compact" in (state.settings or {}).get("cleanup.policy", ""):
            yield failed(
                f"topic {use.topic} is compacted, which needs keys, and {use.keyless} recent"
                " messages have none: Kafka refuses them and the relay stops",
                "write them with key=…, or set the topic's cleanup.policy to delete",
            )


def timestamps(topics: Topics) -> Iterator[Verdict]:
    """Judge how far off a clock may be before the broker refuses messages."""
    for state in _readable(topics):
        if (state.settings or {}).get("message.timestamp.type") == "LogAppendTime":
            continue
        for name in ("difference", "before", "after"):
            limit = _number(state.settings, f"message.timestamp.{name}.max.ms")
            if limit is not None and limit < _NARROW_MS:
                yield warning(
                    f"topic {state.topic}: message.timestamp.{name}.max.ms is {limit}: Kafka"
                    " refuses messages when this machine's clock is off by more, or when they"
                    " waited for longer in the client",
                    "raise it to a minute or more, or set message.timestamp.type=LogAppendTime",
                )
                break


def _readable(topics: Topics) -> Iterator[TopicState]:
    known = [state for _, state in topics if state.error is None]
    if known and all(state.settings is None for state in known):
        raise NotChecked(
            "the relay's user may not read the settings of topics",
            "kafka-acls.sh --add --allow-principal User:… --operation DescribeConfigs --topic …",
        )
    yield from (state for state in known if state.settings is not None)


def _number(settings: Mapping[str, str] | None, name: str) -> int | None:
    value = (settings or {}).get(name, "")
    return int(value) if value.lstrip("-").isdigit() else None


def _creates(patient: Patient) -> bool:
    return str(patient.settings.kafka.get("allow.auto.create.topics", "")).lower() == "true"


def _limits(patient: Patient) -> tuple[Topics, int, bool]:
    given = {**DEFAULTS, **patient.settings.kafka}
    compression = given.get("compression.type", given.get("compression.codec", "none"))
    return patient.topics(), int(str(given["message.max.bytes"])), compression != "none"


def _names(topics: Iterable[tuple[TopicUse, TopicState]]) -> str:
    names = [use.topic for use, _ in topics]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


CHECKS = (
    check(
        "topics",
        "broker",
        looks_at="whether the topics of recent and waiting messages exist",
        advice="create the topic",
        probe=lambda patient: (patient.topics(), _creates(patient)),
        judge=existence,
        well=lambda answer: f"the topics in use exist: {_names(answer[0])}",
    ),
    check(
        "topic-rights",
        "broker",
        looks_at="whether the relay's user may write to those topics",
        advice="`kafka-acls.sh --add … --producer --topic TOPIC`",
        probe=lambda patient: patient.topics(),
        judge=rights,
        well="the relay may write to them",
    ),
    check(
        "topic-leaders",
        "broker",
        looks_at="partitions without a leader, or with fewer replicas in sync than acks=all needs",
        advice="start the missing brokers",
        probe=lambda patient: patient.topics(),
        judge=leaders,
        well="all partitions take messages",
    ),
    check(
        "topic-durability",
        "broker",
        looks_at="replicas, `min.insync.replicas` and `unclean.leader.election.enable`",
        advice="3 replicas, `min.insync.replicas=2`, no unclean election",
        probe=lambda patient: patient.topics(),
        judge=durability,
        well="no single broker's loss loses or stops messages",
    ),
    check(
        "message-size",
        "broker",
        looks_at="the largest waiting message against `max.message.bytes` and `message.max.bytes`",
        advice="raise the limit that is named",
        probe=_limits,
        judge=sizes,
        well="the topics take what Outbox.add takes, and what waits",
    ),
    check(
        "topic-compaction",
        "broker",
        looks_at="messages without a key for a compacted topic",
        advice="write them with a key, or do not compact the topic",
        probe=lambda patient: patient.topics(),
        judge=compaction,
        well="no message without a key goes to a compacted topic",
    ),
    check(
        "topic-timestamps",
        "broker",
        looks_at="`message.timestamp.*.max.ms` that a slightly wrong clock would offend",
        advice="raise it, or use `LogAppendTime`",
        probe=lambda patient: patient.topics(),
        judge=timestamps,
        well="the topics allow for a clock that is a little off",
    ),
)
