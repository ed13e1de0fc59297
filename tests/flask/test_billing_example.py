"""The billing service among the examples, as its README starts it: PostgreSQL and a real Kafka."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from confluent_kafka import Producer

from tests.servers.kafka import KafkaCluster
from tests.waiting import wait_until

FOLDER = Path(__file__).parents[2] / "examples" / "flask_app"


@pytest.fixture
def variables(postgresql_url: str, private_kafka: KafkaCluster) -> dict[str, str]:
    """Give the environment of the service."""
    for topic in ("orders", "invoices"):
        private_kafka.create_topic(topic, partitions=2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {
        **os.environ,
        "DATABASE_URL": postgresql_url,
        "KAFKA_BOOTSTRAP_SERVERS": private_kafka.bootstrap_servers,
        "BILLING_PORT": str(port),
    }


def flask(variables: dict[str, str], *arguments: str) -> list[str]:
    """Run a command of the service to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "billing", *arguments],
        cwd=FOLDER,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@contextmanager
def running(variables: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that goes on until it is told to stop; see that it then stops."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flask", "--app", "billing", *arguments], cwd=FOLDER, env=variables
    )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def ask(url: str) -> dict[str, Any] | None:
    """Return the answer, None where there is none yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except HTTPError as error:
        error.close()
        return None
    except OSError:
        return None


@pytest.mark.slow
def test_an_order_that_comes_twice_is_billed_once_and_answered_once(
    variables: dict[str, str], private_kafka: KafkaCluster
) -> None:
    # Given the service with its three processes
    flask(variables, "init-db")
    flask(variables, "init-db")
    base = f"http://127.0.0.1:{variables['BILLING_PORT']}"
    web, consumer, relay = ("web",), ("consume",), ("outbox", "run")
    with running(variables, *web), running(variables, *consumer), running(variables, *relay):
        wait_until(lambda: ask(f"{base}/healthz"), what="the pages")

        # When an order's message comes twice
        order_id = str(uuid.uuid4())
        _send_twice(private_kafka, order_id)
        url = f"{base}/api/orders/{order_id}"
        wait_until(lambda: (ask(url) or {}).get("deliveries") == 2, what="both deliveries")
        told = ask(url)
        answers = wait_until(
            lambda: private_kafka.read("invoices"), what="the answer among the invoices"
        )

    # Then it has one invoice
    assert told is not None
    assert (told["state"], told["message_id"]) == ("issued", "order-1")

    # And one answer, also when all is delivered
    flask(variables, "outbox", "run", "--drain")
    answers = private_kafka.read("invoices")
    assert [json.loads(answer.value())["invoice_id"] for answer in answers] == [told["invoice_id"]]
    assert [answer.key() for answer in answers] == [b"ada"]


def _send_twice(kafka: KafkaCluster, order_id: str) -> None:
    order = {
        "order_id": order_id,
        "customer": "ada",
        "amount": "12.50",
        "currency": "EUR",
        "items": [{"sku": "fork-440", "quantity": 1}],
        "placed_at": "2026-02-03T04:05:06+00:00",
    }
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "linger.ms": 0})
    for _ in range(2):
        headers = [("id", b"order-1"), ("type", b"order.placed")]
        producer.produce("orders", json.dumps(order), key="ada", headers=headers)
    assert producer.flush(30) == 0
