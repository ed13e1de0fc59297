"""Whose fault it is when Kafka does not take a message."""

from __future__ import annotations

import enum


class Fault(enum.Enum):
    """Whose fault a failed delivery is."""

    BROKER = "broker"  # wait and send again
    TOPIC = "topic"  # wait until somebody makes the topic or grants the right
    MESSAGE = "message"  # sending it again will not help


_MESSAGE = frozenset(
    {
        "MSG_SIZE_TOO_LARGE",
        "RECORD_LIST_TOO_LARGE",
        "INVALID_RECORD",
        "INVALID_TIMESTAMP",
        "TOPIC_EXCEPTION",
        "_INVALID_ARG",
        "_KEY_SERIALIZATION",
        "_VALUE_SERIALIZATION",
    }
)
_TOPIC = frozenset(
    {
        "UNKNOWN_TOPIC_OR_PART",
        "UNKNOWN_TOPIC_ID",
        "_UNKNOWN_TOPIC",
        "_UNKNOWN_PARTITION",
        "TOPIC_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "POLICY_VIOLATION",
    }
)


def fault_of(error_name: str) -> Fault:
    """Return whose fault the error of librdkafka's name `error_name` is.

    Anything unknown counts as the broker's: that way nothing is ever held against a message.
    """
    if error_name in _MESSAGE:
        return Fault.MESSAGE
    return Fault.TOPIC if error_name in _TOPIC else Fault.BROKER
