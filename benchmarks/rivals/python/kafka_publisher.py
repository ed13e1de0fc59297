"""What the relays of Python packages send with: librdkafka, and a future for each message."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Producer

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

    async def send(
        self, topic: str, key: str | None, payload: bytes, headers: Iterable[tuple[str, str]]
    ) -> None:
        future = asyncio.get_running_loop().create_future()

        def delivered(error: Any, _: object) -> None:
            if future.cancelled():
                return
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(RuntimeError(str(error)))

        self._producer.produce(topic, payload, key, headers=list(headers), on_delivery=delivered)
        await future

    async def ask(self) -> None:
        """Call what waits for acknowledgements, in the loop's own thread."""
        while True:
            self._producer.poll(0)
            await asyncio.sleep(ASK_EVERY)
