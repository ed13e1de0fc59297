"""A relay made of txoutbox and librdkafka. It runs where txoutbox is installed, and we are not.

`python txoutbox_relay.py SETTINGS`, SETTINGS being JSON. It makes its table, prints "ready", and
relays until it is killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import uvloop  # type: ignore[import-not-found] # of the rival's environment
from confluent_kafka import Producer
from txoutbox import OutboxMessage, Relay, RelayConfig  # type: ignore[import-not-found] # as above
from txoutbox.adapters.postgres import PostgresStorage  # type: ignore[import-not-found] # as above

#: How often to ask librdkafka for acknowledgements, in seconds.
ASK_EVERY = 0.0005


class KafkaPublisher:
    """Publishes through librdkafka; a message is published when it is acknowledged."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 1,
                "partitioner": "murmur2_random",
            }
        )

    async def publish(self, message: OutboxMessage) -> None:
        future = asyncio.get_running_loop().create_future()

        def delivered(error: Any, _: object) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(RuntimeError(str(error)))

        self._producer.produce(
            message.topic,
            message.payload,
            message.key,
            headers=[("id", str(message.id)), *message.headers.items()],
            on_delivery=delivered,
        )
        await future

    async def ask(self) -> None:
        """Call what waits for acknowledgements, in the loop's own thread."""
        while True:
            self._producer.poll(0)
            await asyncio.sleep(ASK_EVERY)


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
        await Relay(storage, publisher, config=config).run(handle_signals=True)
    finally:
        asking.cancel()


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
