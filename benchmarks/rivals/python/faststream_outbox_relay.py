"""A relay made of faststream-outbox and librdkafka. It runs where that is installed.

`python faststream_outbox_relay.py SETTINGS`, SETTINGS being JSON. It makes its table, prints
"ready", and relays until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import uvloop
from faststream_outbox import OutboxBroker, make_outbox_table
from faststream_outbox.annotations import OutboxMessage
from kafka_publisher import KafkaPublisher
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def subscribed(
    engine: AsyncEngine, metadata: MetaData, publisher: KafkaPublisher, settings: dict[str, Any]
) -> OutboxBroker:
    """Return a broker whose one subscriber sends each row on."""
    broker = OutboxBroker(engine, outbox_table=make_outbox_table(metadata), logger=None)

    @broker.subscriber(
        "outbox",
        max_workers=settings["workers"],
        fetch_batch_size=settings["batch_size"],
        terminal_flush_batch_size=settings["delete_at_once"],
        min_fetch_interval=0.001,
        max_fetch_interval=0.05,
        lease_ttl_seconds=300.0,
    )
    async def relay(message: OutboxMessage) -> None:
        to = message.headers
        headers = [("id", str(message.message_id)), ("traceparent", to["traceparent"])]
        await publisher.send(to["topic"], to["key"], message.body, headers)

    return broker


async def main(settings: dict[str, Any]) -> None:
    engine = create_async_engine(
        settings["database_url"].replace("postgresql://", "postgresql+asyncpg://"),
        pool_size=settings["workers"] + 4,
        connect_args={"server_settings": {"search_path": "rival"}},
    )
    metadata = MetaData()
    publisher = KafkaPublisher(settings["bootstrap"])
    broker = subscribed(engine, metadata, publisher, settings)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    asking = asyncio.create_task(publisher.ask())
    await broker.start()
    print("ready", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        asking.cancel()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
