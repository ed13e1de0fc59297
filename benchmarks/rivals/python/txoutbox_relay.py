"""A relay made of txoutbox and librdkafka. It runs where that is installed.

`python txoutbox_relay.py SETTINGS`, SETTINGS being JSON. It makes its table, prints "ready", and
relays until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import uvloop
from kafka_publisher import KafkaPublisher
from txoutbox import OutboxMessage, Relay, RelayConfig
from txoutbox.adapters.postgres import PostgresStorage


async def main(settings: dict[str, Any]) -> None:
    storage = await PostgresStorage.connect(
        settings["database_url"],
        schema="rival",
        strict_ordering=settings["strict_ordering"],
        delete_on_ack=settings["delete_on_ack"],
        min_size=2,
        max_size=2,
    )
    await storage.create_schema()
    publisher = KafkaPublisher(settings["bootstrap"])

    async def publish(message: OutboxMessage) -> None:
        headers = [("id", str(message.id)), *message.headers.items()]
        await publisher.send(message.topic, message.key, message.payload, headers)

    asking = asyncio.create_task(publisher.ask())
    config = RelayConfig(
        batch_size=settings["batch_size"],
        concurrency=settings["concurrency"],
        lease=timedelta(minutes=5),
        publish_timeout=None,  # a timer for each message costs, and librdkafka has its own
        poll_min=0.001,
        poll_max=0.05,
    )
    print("ready", flush=True)
    try:
        await Relay(storage, publish, config=config).run(handle_signals=True)
    finally:
        asking.cancel()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
