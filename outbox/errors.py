"""Every error this library raises on purpose.

OutboxError
├── NotInTransaction
├── InvalidMessage (also a ValueError)
│   ├── PayloadNotSerializable
│   ├── PayloadNotReadable
│   ├── MessageTooLarge
│   └── UnknownLane
├── BacklogFull
├── SchemaMissing
├── SchemaTooOld
├── SchemaTooNew
├── ConfigurationError
├── DatabaseUnavailable
├── BrokerUnavailable
├── LogInconsistent
├── MessageRefused
├── MissingMessageId
└── MissingExtra (also an ImportError)

The docstring of a class is its message where none is given. `exit_code` is what a command
ends with when the error reaches it.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BacklogFull",
    "BrokerUnavailable",
    "ConfigurationError",
    "DatabaseUnavailable",
    "InvalidMessage",
    "LogInconsistent",
    "MessageRefused",
    "MessageTooLarge",
    "MissingExtra",
    "MissingMessageId",
    "NotInTransaction",
    "OutboxError",
    "PayloadNotReadable",
    "PayloadNotSerializable",
    "SchemaMissing",
    "SchemaTooNew",
    "SchemaTooOld",
    "UnknownLane",
]


class OutboxError(Exception):
    """Something went wrong in outbox-relay."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class NotInTransaction(OutboxError):
    """The connection is not in a transaction, so the row would be committed on its own."""


class InvalidMessage(OutboxError, ValueError):
    """The message cannot be written as it is."""


class PayloadNotSerializable(InvalidMessage):
    """The payload cannot be turned into bytes."""


class PayloadNotReadable(InvalidMessage):
    """The payload of a received message is not what its Topic says."""


class MessageTooLarge(InvalidMessage):
    """The message is larger than the limit."""


class UnknownLane(InvalidMessage):
    """The lane is not one of the lanes this Outbox was given."""


class BacklogFull(OutboxError):
    """Too many messages wait for the relay."""


class SchemaMissing(OutboxError):
    """The tables do not exist; run `outbox-relay migrate`."""

    exit_code = 5


class SchemaTooOld(OutboxError):
    """The tables are older than this version; run `outbox-relay migrate`."""

    exit_code = 5


class SchemaTooNew(OutboxError):
    """The tables are newer than this version; upgrade outbox-relay."""

    exit_code = 5


class ConfigurationError(OutboxError):
    """A setting is wrong."""

    exit_code = 78


class DatabaseUnavailable(OutboxError):
    """The database cannot be reached or does not accept writes."""

    exit_code = 3

    #: Which kind of trouble it is, where that is not just a server that is away.
    why: str = ""


class BrokerUnavailable(OutboxError):
    """The broker cannot be reached."""

    exit_code = 4


class LogInconsistent(OutboxError):
    """The cursor does not belong to this log; see `outbox-relay migrate --rebase`."""

    exit_code = 5


class MessageRefused(OutboxError):
    """The broker will not take a message for a reason that lies in the message."""


class MissingMessageId(OutboxError, ValueError):
    """The Kafka message has no `id` header, and no `id_from` was given."""


class MissingExtra(OutboxError, ImportError):
    """An optional dependency is not installed."""

    exit_code = 78
