"""A program: publish under OpenTelemetry's own instrumentation of the Kafka client.

Takes the bootstrap servers and two topics. To the first it sends as any application would, to the
second with the KafkaPublisher. It runs in a process of its own, since the instrumentation replaces
classes of the client for good.
"""

from __future__ import annotations

import sys

import confluent_kafka
from opentelemetry import trace
from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from outbox.publishers.kafka import KafkaPublisher
from tests.conformance.publisher_kit import TIMEOUT_S, Sending, record

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def main(servers: str, ordinary: str, ours: str) -> None:
    provider = TracerProvider()
    trace.set_tracer_provider(provider)
    ConfluentKafkaInstrumentor().instrument()
    with trace.get_tracer("program").start_as_current_span("ambient"):
        send_as_anybody(servers, ordinary)
        send_as_we_do(servers, ours)
    provider.shutdown()


def send_as_anybody(servers: str, topic: str) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": servers})
    producer.produce(topic, b"", key=b"k", headers=[("traceparent", TRACEPARENT.encode())])
    assert producer.flush(TIMEOUT_S) == 0


def send_as_we_do(servers: str, topic: str) -> None:
    publisher = KafkaPublisher({"bootstrap.servers": servers})
    publisher.connect(TIMEOUT_S)
    Sending(publisher).deliver([record(topic, traceparent=TRACEPARENT)])
    publisher.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
