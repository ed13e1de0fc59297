"""Whose fault an error of Kafka's is: over every error that librdkafka knows."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from outbox.publishers import faults
from outbox.publishers.faults import FAULTS, NOT_FOR_PRODUCERS, Fault, fault_of

#: Every error by its name, from the constants of the client.
ALL = {
    KafkaError(code).name()
    for name, code in vars(KafkaError).items()
    if name.isupper() and isinstance(code, int)
}
#: What no waiting and no other broker would mend: the message itself must change.
OF_THE_MESSAGE = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError._INVALID_ARG,
    KafkaError._KEY_SERIALIZATION,
    KafkaError._VALUE_SERIALIZATION,
}
#: What somebody must create, or grant.
OF_THE_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.INCONSISTENT_TOPIC_ID,
    KafkaError.POLICY_VIOLATION,
}


def names(codes: set[int]) -> set[str]:
    return {KafkaError(code).name() for code in codes}


@pytest.mark.parametrize("name", sorted(names(OF_THE_MESSAGE)))
def test_what_only_another_message_would_mend_is_the_messages_fault(name: str) -> None:
    assert fault_of(name) is Fault.MESSAGE


@pytest.mark.parametrize("name", sorted(names(OF_THE_TOPIC)))
def test_what_an_operator_can_mend_is_the_topics_fault(name: str) -> None:
    assert fault_of(name) is Fault.TOPIC


def test_every_error_that_librdkafka_knows_is_classified_once() -> None:
    assert ALL - FAULTS.keys() - NOT_FOR_PRODUCERS == set()
    assert FAULTS.keys() & NOT_FOR_PRODUCERS == set()
    assert sum(len(names.split()) for names in faults._NAMES.values()) == len(FAULTS)


def test_nothing_else_is_held_against_a_message_or_a_topic() -> None:
    rest = ALL - names(OF_THE_MESSAGE) - names(OF_THE_TOPIC)
    assert len(rest) > 100
    assert {name for name in rest if fault_of(name) in (Fault.MESSAGE, Fault.TOPIC)} == set()


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._AUTHENTICATION,
        KafkaError._FATAL,
        KafkaError._PURGE_QUEUE,
        KafkaError._GAPLESS_GUARANTEE,
    ],
    ids=lambda code: str(KafkaError(code).name()),
)
def test_an_outage_is_never_held_against_a_message(code: int) -> None:
    assert fault_of(KafkaError(code).name()) in (Fault.BROKER, Fault.CONFIGURATION, Fault.OURS)


@pytest.mark.parametrize("name", ["", "ERR_4711?", "SOMETHING_NEW", "msg_size_too_large"])
def test_an_error_nobody_knows_is_the_brokers_fault(name: str) -> None:
    assert fault_of(name) is Fault.BROKER


def test_every_name_is_one_that_librdkafka_uses() -> None:
    assert (FAULTS.keys() | NOT_FOR_PRODUCERS) <= ALL


def test_it_is_said_of_every_fault_what_happens() -> None:
    assert all(fault.what_happens for fault in Fault)
