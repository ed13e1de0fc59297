"""Transactional outbox and inbox: from your database to Kafka, in order, nothing lost."""

from __future__ import annotations

from outbox.errors import (
    BacklogFull,
    BrokerUnavailable,
    ConfigurationError,
    DatabaseUnavailable,
    InvalidMessage,
    LogInconsistent,
    MessageRefused,
    MessageTooLarge,
    MissingExtra,
    MissingMessageId,
    NotInTransaction,
    OutboxError,
    PayloadNotSerializable,
    SchemaMissing,
    SchemaTooNew,
    SchemaTooOld,
    UnknownLane,
)
from outbox.message import Message
from outbox.version import __version__
from outbox.writer.outbox import Outbox

__all__ = [
    "BacklogFull",
    "BrokerUnavailable",
    "ConfigurationError",
    "DatabaseUnavailable",
    "InvalidMessage",
    "LogInconsistent",
    "Message",
    "MessageRefused",
    "MessageTooLarge",
    "MissingExtra",
    "MissingMessageId",
    "NotInTransaction",
    "Outbox",
    "OutboxError",
    "PayloadNotSerializable",
    "SchemaMissing",
    "SchemaTooNew",
    "SchemaTooOld",
    "UnknownLane",
    "__version__",
]
