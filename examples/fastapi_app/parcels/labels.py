"""The consumer: prints a label for each booking, once, however often the message comes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from uuid import UUID

from confluent_kafka import Message
from confluent_kafka.aio import AIOConsumer
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from outbox.inbox import Inbox, ReceivedMessage, from_kafka
from parcels.models import Parcel
from parcels.settings import TOPIC

log = logging.getLogger(__name__)
inbox = Inbox("labels")

RETRY_S = 1.0


async def print_labels(
    sessions: async_sessionmaker[AsyncSession], bootstrap_servers: str, stop: asyncio.Event
) -> None:
    """Take bookings from Kafka until told to stop."""
    consumer = AIOConsumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": inbox.consumer,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        },
        max_workers=2,
    )
    try:
        await consumer.subscribe([TOPIC])
        while not stop.is_set():
            message = await consumer.poll(0.5)
            if message is None:
                continue
            if message.error():
                log.warning("Kafka says: %s", message.error())
            elif await taken(sessions, message, stop):
                # After the transaction: a crash in between brings the message again, and the
                # inbox knows it.
                await consumer.commit(message=message, asynchronous=False)
    finally:
        await consumer.close()


async def taken(
    sessions: async_sessionmaker[AsyncSession], message: Message, stop: asyncio.Event
) -> bool:
    """Handle a message, again and again until it works; False if that had to be given up.

    All others wait meanwhile; with InboxConsumer only those of the same partition do.
    """
    while not stop.is_set():
        try:
            async with sessions.begin() as session:
                await handle(session, from_kafka(message))
        except Exception:
            log.exception("A message could not be handled, next attempt in %s s", RETRY_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)
        else:
            return True
    return False


async def handle(session: AsyncSession, message: ReceivedMessage) -> bool:
    """Give the parcel its label, unless this message has done so; return whether it was new."""
    if not await inbox.record_async(session, message):
        return False
    booked = json.loads(message.payload or b"{}")
    parcel = await session.get_one(Parcel, UUID(booked["parcel"]))
    parcel.label = f"To: {booked['recipient']}"
    return True
