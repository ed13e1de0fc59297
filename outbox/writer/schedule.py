"""What a writer does about messages that wait: cancel them, and release a condition.

A condition has a lock, which whoever writes a message that waits for it shares, and who releases it
has alone, until the end of the transaction. So a release sees every message whose transaction began
to wait for the condition before it: it waits for that transaction to end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC
from typing import TYPE_CHECKING

from outbox.errors import InvalidMessage
from outbox.timing import check_condition
from outbox.transactions.opening import AsyncTransaction, Statement, Transaction
from outbox.transactions.sql_errors import raise_explained
from outbox.writer.insert import ADVICE, Row, array

if TYPE_CHECKING:
    from outbox.message import Message
    from outbox.names import Names

# Seed 1: seed 0 belongs to the keys of ordering="strict".
_LOCK = (
    "select pg_advisory_xact_lock{}(hashtextextended(k, 1)) "
    "from unnest(cast(cast(:conditions as text) as text[])) as conditions (k)"
)
# SQLite has one writer at a time: nothing to lock.
_SHARED_LOCK = Statement(postgresql=_LOCK.format("_shared"), sqlite="")
_SOLE_LOCK = Statement(postgresql=_LOCK.format(""), sqlite="")


class ScheduleStatements:
    """The SQL for one log, rendered once."""

    def __init__(self, names: Names) -> None:
        table = names["outbox_scheduled"]
        self.cancel = Statement(
            postgresql=f"delete from {table} where id = cast(:id as uuid)",
            sqlite=f"delete from {table} where id = :id",
        )
        # One time for all of them, so that they leave in the order in which they were written.
        self.release = Statement(
            postgresql=f"""update {table}
                set wait_for = null, due_at = greatest(due_at, (select clock_timestamp()))
                where wait_for = any(array(
                    select jsonb_array_elements_text(cast(:conditions as jsonb))))""",
            sqlite=f"""update {table}
                set wait_for = null, due_at = max(coalesce(due_at, now.at), now.at)
                from (select (julianday('now') - 2440587.5) * 86400.0 as at) as now
                where wait_for in (select value from json_each(:conditions))""",
        )


def add_timing(row: Row, message: Message) -> None:
    """Say in a row what its message waits for, and until when it may be sent."""
    if message.expires_at is not None:
        row["expires_at"] = message.expires_at.astimezone(UTC).isoformat(timespec="microseconds")
    if message.deliver_at is not None:
        row["deliver_at"] = message.deliver_at.astimezone(UTC).isoformat(timespec="microseconds")
    if message.delay is not None:
        row["delay"] = str(message.delay.total_seconds())
    if message.wait_for is not None:
        row["wait_for"] = message.wait_for


def check_conditions(conditions: Iterable[str]) -> list[str]:
    """Return the names, each once and sorted: two who lock several do not wait for each other."""
    checked = sorted({check_condition("condition", condition) for condition in conditions})
    if not checked:
        raise InvalidMessage("release() needs the name of a condition")
    return checked


def conditions_of(messages: Iterable[Message]) -> list[str]:
    """Return the conditions that messages wait for, each once and sorted."""
    return sorted({message.wait_for for message in messages if message.wait_for is not None})


def lock_awaited(transaction: Transaction, conditions: list[str]) -> None:
    """Let nobody release these conditions before this transaction ends."""
    if conditions and transaction.dialect == "postgresql":
        transaction.execute(_SHARED_LOCK, {"conditions": array(conditions)})


async def lock_awaited_async(transaction: AsyncTransaction, conditions: list[str]) -> None:
    """Do the same for asyncio."""
    if conditions and transaction.dialect == "postgresql":
        await transaction.execute(_SHARED_LOCK, {"conditions": array(conditions)})


def cancel(transaction: Transaction, statements: ScheduleStatements, id_text: str) -> bool:
    """Delete the messages of this id that wait; return whether there was one."""
    return _run(transaction, statements.cancel, {"id": id_text}) > 0


async def cancel_async(
    transaction: AsyncTransaction, statements: ScheduleStatements, id_text: str
) -> bool:
    """Do the same for asyncio."""
    return await _run_async(transaction, statements.cancel, {"id": id_text}) > 0


def release(transaction: Transaction, statements: ScheduleStatements, conditions: list[str]) -> int:
    """Let what waits for these conditions go; return how many messages that were."""
    if transaction.dialect == "postgresql":
        transaction.execute(_SOLE_LOCK, {"conditions": array(conditions)})
    return _run(transaction, statements.release, {"conditions": json.dumps(conditions)})


async def release_async(
    transaction: AsyncTransaction, statements: ScheduleStatements, conditions: list[str]
) -> int:
    """Do the same for asyncio."""
    if transaction.dialect == "postgresql":
        await transaction.execute(_SOLE_LOCK, {"conditions": array(conditions)})
    return await _run_async(transaction, statements.release, {"conditions": json.dumps(conditions)})


def _run(transaction: Transaction, statement: Statement, parameters: Row) -> int:
    try:
        return transaction.execute(statement, parameters)
    except Exception as error:
        raise_explained(error, ADVICE)
        raise


async def _run_async(transaction: AsyncTransaction, statement: Statement, parameters: Row) -> int:
    try:
        return await transaction.execute(statement, parameters)
    except Exception as error:
        raise_explained(error, ADVICE)
        raise
