"""A consumer that kills itself around a commit: a program for test_inbox_consumer.py."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, create_engine, text

from outbox.inbox import Inbox, InboxConsumer, ReceivedMessage

CONSUMER, DATABASE, KAFKA, TOPIC, MOMENT = sys.argv[1:]
FATAL = "m-2"

engine = create_engine(DATABASE)
current: list[str] = []


def die_if(moment: str) -> None:
    if moment == MOMENT and current[-1:] == [FATAL]:
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def transaction() -> Iterator[Connection]:
    with engine.begin() as connection:
        yield connection
        die_if("before the commit")
    die_if("after the commit")


def handler(connection: Connection, message: ReceivedMessage) -> None:
    current.append(message.id)
    connection.execute(
        text("insert into effect (message_id, partition) values (:id, :partition)"),
        {"id": message.id, "partition": message.partition},
    )


with InboxConsumer(
    Inbox(CONSUMER),
    transaction_factory=transaction,
    kafka={"bootstrap.servers": KAFKA, "session.timeout.ms": 6000, "fetch.wait.max.ms": 20},
    topics=[TOPIC],
) as consumer:
    consumer.run(handler, until_idle=30)
