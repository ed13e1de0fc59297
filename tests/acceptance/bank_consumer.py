"""A consumer that repeats the transfers of one bank in the books of another: a program for bank.py.

Ends in order on SIGTERM. A database or a broker that goes away is the consumer's to wait for.
"""

from __future__ import annotations

import json
import signal
import sys
import threading

from sqlalchemy import Connection, create_engine, text

from outbox.inbox import Inbox, InboxConsumer, ReceivedMessage

DATABASE, KAFKA, TOPIC = sys.argv[1:]

_APPLY = text(
    """with applied as (
           insert into transfer (id, source, target, amount, number)
           values (:id, :source, :target, :amount, :number) returning *)
       update account set balance = balance
              + case when account.id = applied.target then amount else -amount end
         from applied where account.id in (applied.source, applied.target)"""
)


def apply(connection: Connection, message: ReceivedMessage) -> None:
    """Move the money; the inbox's row is in the same transaction."""
    connection.execute(_APPLY, {"id": message.id, **json.loads(message.payload or b"{}")})


def main() -> None:
    """Run until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    consumer = InboxConsumer(
        Inbox("branch"),
        transaction_factory=create_engine(DATABASE, pool_pre_ping=True).begin,
        kafka={
            "bootstrap.servers": KAFKA,
            "session.timeout.ms": 2000,
            "heartbeat.interval.ms": 500,
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        },
        topics=[TOPIC],
        max_retry_delay=1.0,
    )
    with consumer:
        consumer.run(apply, stop=stop)


if __name__ == "__main__":
    main()
