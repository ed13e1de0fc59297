"""Transactional outbox and inbox: from your database to Kafka, in order, nothing lost."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

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
    PayloadNotReadable,
    PayloadNotSerializable,
    SchemaMissing,
    SchemaTooNew,
    SchemaTooOld,
    UnknownLane,
)
from outbox.version import __version__

if TYPE_CHECKING:
    from outbox.message import Message
    from outbox.topic.topic import Topic
    from outbox.writer.notifier import Notifier
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
    "Notifier",
    "Outbox",
    "OutboxError",
    "PayloadNotReadable",
    "PayloadNotSerializable",
    "SchemaMissing",
    "SchemaTooNew",
    "SchemaTooOld",
    "Topic",
    "UnknownLane",
    "__version__",
]

#: Where the names are that are loaded when they are first asked for. pytest imports this package
#: for its plugin at every start, also where no test needs it.
_LAZY = {
    "Message": "outbox.message",
    "Notifier": "outbox.writer.notifier",
    "Outbox": "outbox.writer.outbox",
    "Topic": "outbox.topic.topic",
}

if not TYPE_CHECKING:  # to a type checker it would make every misspelt name an attribute

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_LAZY[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
