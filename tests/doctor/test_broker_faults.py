"""Faults of the broker and of topics, planted in a real Kafka, and found."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
)

from tests.doctor.conftest import LOGIN
from tests.doctor.installation import Installation, Report
from tests.servers.kafka import KafkaCluster
from tests.servers.ports import free_port
from tests.servers.postgresql import PrivatePostgreSQL
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka

#: Healthy, so that a test finds what it plants and nothing else.
HEALTHY = {"replica_assignment": [[1, 2, 3]], "min_insync_replicas": "2"}


def admin(kafka: KafkaCluster) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka.bootstrap_servers, "log_level": 0})


def reach(installation: Installation, address: str, **properties: str) -> Report:
    """Ask a broker at an address, with librdkafka's properties (underscores for dots)."""
    installation.bootstrap = address
    given = [word for name, value in properties.items() for word in ("-X", f"{name}={value}")]
    return installation.doctor("--connect-timeout", "3", *given)


def login(**changes: str) -> dict[str, str]:
    return {"security.protocol": "sasl_plaintext", **LOGIN, **changes}


# Reaching it


def test_nothing_listens(on_sqlite: Installation) -> None:
    report = reach(on_sqlite, f"127.0.0.1:{free_port()}")

    assert report.code == 6
    assert report.only("broker")["outcome"] == "failed"
    assert "nothing listens there" in report.only("broker")["found"]
    assert "Connection refused" in report.only("broker")["found"]
    assert report.only("topics")["found"] == "the broker cannot be reached (see broker)"


def test_a_name_that_cannot_be_resolved(on_sqlite: Installation) -> None:
    report = reach(on_sqlite, "no-such-host.invalid:9092")
    assert "name cannot be resolved" in report.only("broker")["found"]


@pytest.mark.postgresql
def test_a_port_that_is_no_kafka(
    on_sqlite: Installation, sick_postgresql: PrivatePostgreSQL
) -> None:
    report = reach(on_sqlite, f"127.0.0.1:{sick_postgresql.port}")
    assert "what answers is no Kafka" in report.only("broker")["found"]


def test_plaintext_against_tls(on_sqlite: Installation, tmp_path: Path) -> None:
    with tls_server(tmp_path) as port:
        report = reach(on_sqlite, f"127.0.0.1:{port}")

    assert "the port speaks TLS" in report.only("broker")["found"]
    assert "security.protocol=ssl" in report.only("broker")["advice"]


def test_tls_against_plaintext(on_sqlite: Installation, sick_kafka: KafkaCluster) -> None:
    address = sick_kafka.bootstrap_servers.partition(",")[0]
    report = reach(on_sqlite, address, **{"security.protocol": "ssl"})
    assert "TLS" in report.only("broker")["found"]
    assert "security.protocol" in report.only("broker")["advice"]


@contextmanager
def tls_server(directory: Path) -> Iterator[int]:
    """Serve TLS handshakes and nothing else."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_shake_hands, args=(listener, context))
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _shake_hands(listener: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain, suppress(OSError):
            context.wrap_socket(plain, server_side=True).close()


def test_a_wrong_password(on_sqlite: Installation, sick_kafka: KafkaCluster) -> None:
    address = f"127.0.0.1:{sick_kafka.broker(2).advertised_port}"
    report = reach(on_sqlite, address, **login(**{"sasl.password": "wrong"}))
    assert "the broker refuses the login" in report.only("broker")["found"]


def test_a_login_without_encryption(on_sqlite: Installation, sick_kafka: KafkaCluster) -> None:
    address = f"127.0.0.1:{sick_kafka.broker(2).advertised_port}"

    report = reach(on_sqlite, address, **login())

    assert report.outcome("broker") == "ok"
    assert report.outcome("encryption") == "warning"
    assert "OUTBOX_KAFKA_SASL_PASSWORD_FILE" in report.only("secrets")["advice"]


def test_an_address_that_the_broker_gives_out_and_nobody_serves(
    on_sqlite: Installation, sick_kafka: KafkaCluster
) -> None:
    first = sick_kafka.broker(1)

    report = reach(on_sqlite, f"127.0.0.1:{first.proxied_port}", **login())

    assert report.outcome("broker") == "ok"
    assert report.outcome("broker-addresses") == "failed"
    assert f":{first.advertised_port}" in report.only("broker-addresses")["found"]
    assert "advertised.listeners" in report.only("broker-addresses")["advice"]


def test_another_cluster_than_before(with_kafka: Installation) -> None:
    with_kafka.execute("update outbox_cursor set cluster_id = 'other'")
    report = with_kafka.doctor()
    assert report.outcome("cluster-binding") == "failed"
    assert "relays rebind default" in report.only("cluster-binding")["advice"]


def test_a_brokers_clock_that_is_ahead(with_kafka: Installation, sick_kafka: KafkaCluster) -> None:
    # Given a record whose time, so the topic says, is the broker's
    topic = sick_kafka.create_topic(**HEALTHY)
    producer = Producer({"bootstrap.servers": sick_kafka.bootstrap_servers, "log_level": 0})
    producer.produce(topic, b"x", timestamp=int((time.time() + 3600) * 1000))
    assert producer.flush(30) == 0
    resource = ConfigResource(
        ConfigResource.Type.TOPIC,
        topic,
        incremental_configs=[
            ConfigEntry(
                "message.timestamp.type",
                "LogAppendTime",
                incremental_operation=AlterConfigOpType.SET,
            )
        ],
    )
    client = admin(sick_kafka)
    for future in client.incremental_alter_configs([resource]).values():
        future.result(30)
    with_kafka.add(topic)

    # When, Then
    report = with_kafka.doctor()
    assert report.outcome("broker-clock") == "warning"
    assert "60 min ahead" in report.only("broker-clock")["found"]


# Properties


def test_a_property_that_librdkafka_does_not_know(with_kafka: Installation) -> None:
    report = with_kafka.doctor("-X", "no.such.property=1")
    assert report.outcome("kafka-properties") == "failed"
    assert "no.such.property" in report.only("kafka-properties")["found"]


def test_topics_made_by_themselves_and_a_limit_too_low(with_kafka: Installation) -> None:
    report = with_kafka.doctor(
        *("-X", "allow.auto.create.topics=true", "-X", "message.max.bytes=5000")
    )
    found = [each["found"] for each in report.of("kafka-properties")]
    assert ["allow.auto" in found[0], "message.max.bytes is 5000" in found[1]] == [True, True]


# Topics


def test_a_topic_that_does_not_exist(with_kafka: Installation) -> None:
    with_kafka.add("misspelt")

    report = with_kafka.doctor()

    assert report.outcome("topics") == "failed"
    assert "topic misspelt" in report.only("topics")["found"]
    assert "--create --topic misspelt" in report.only("topics")["advice"]


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        ([AclOperation.READ, AclOperation.DESCRIBE_CONFIGS], "may not write to it"),
        ([AclOperation.DELETE], "may not write to it"),  # nor read its settings
        ([AclOperation.DESCRIBE_CONFIGS], "may not even see it"),
    ],
)
def test_a_topic_that_may_not_be_written_to(
    with_kafka: Installation,
    sick_kafka: KafkaCluster,
    allowed: list[AclOperation],
    words: str,
) -> None:
    topic = sick_kafka.create_topic(**HEALTHY)
    with_kafka.add(topic)
    client = admin(sick_kafka)
    for future in client.create_acls([allow(topic, operation) for operation in allowed]).values():
        future.result(30)

    # The brokers learn of it a moment after the controller.
    report = wait_until(
        lambda: (report := with_kafka.doctor()).problems and report, what="the broker to refuse"
    )

    assert list(report.problems) == ["topic-rights"]
    assert words in report.only("topic-rights")["found"]
    assert f"--producer --topic {topic}" in report.only("topic-rights")["advice"]


def allow(topic: str, operation: AclOperation) -> AclBinding:
    """Allow everybody one thing, and so nobody anything else."""
    return AclBinding(
        *(ResourceType.TOPIC, topic, ResourcePatternType.LITERAL),
        *("User:*", "*", operation, AclPermissionType.ALLOW),
    )


@pytest.mark.parametrize(
    ("placed", "settings", "words"),
    [
        ([[1]], {}, "has one replica"),
        ([[1, 2, 3]], {"min_insync_replicas": "1"}, "min.insync.replicas is 1"),
        ([[1, 2, 3]], {"min_insync_replicas": "3"}, "as soon as one broker is down"),
        (
            [[1, 2, 3]],
            {"min_insync_replicas": "2", "unclean_leader_election_enable": "true"},
            "unclean.leader.election.enable",
        ),
    ],
)
def test_a_topic_that_a_brokers_loss_would_hurt(
    with_kafka: Installation,
    sick_kafka: KafkaCluster,
    placed: list[list[int]],
    settings: dict[str, str],
    words: str,
) -> None:
    with_kafka.add(sick_kafka.create_topic(replica_assignment=placed, **settings))

    report = with_kafka.doctor()

    assert words in report.only("topic-durability")["found"]
    assert list(report.problems) == ["topic-durability"]
    assert report.code == 0


def test_a_topic_that_wants_more_replicas_than_it_has(
    with_kafka: Installation, sick_kafka: KafkaCluster
) -> None:
    with_kafka.add(sick_kafka.create_topic(replica_assignment=[[1]], min_insync_replicas="2"))

    report = with_kafka.doctor()

    assert report.outcome("topic-leaders") == "warning"
    assert "before 3.7 takes no message" in report.only("topic-leaders")["found"]


def test_a_topic_that_takes_less_than_the_outbox(
    with_kafka: Installation, sick_kafka: KafkaCluster
) -> None:
    with_kafka.add(sick_kafka.create_topic(**HEALTHY, max_message_bytes="5000"))

    report = with_kafka.doctor()

    assert report.outcome("message-size") == "warning"
    assert "max_message_bytes=" in report.only("message-size")["advice"]


@pytest.mark.parametrize("size", [6_000, 2_000_000])
def test_a_message_that_waits_and_is_too_large(
    with_kafka: Installation, sick_kafka: KafkaCluster, size: int
) -> None:
    """For the topic, or for the client."""
    limit = {"max_message_bytes": "5000"} if size == 6_000 else {}
    topic = sick_kafka.create_topic(**HEALTHY, **limit)
    with_kafka.add(topic, payload="x" * size)
    with_kafka.add(topic, payload="small")

    report = with_kafka.doctor()

    assert report.outcome("message-size") == "failed"
    assert "it is held, and what comes after it" in report.only("message-size")["found"]
    assert with_kafka.relay("run", "--drain") == 6  # indeed
    large, small = with_kafka.held()
    assert (large["state"], large["fault"], large["attempts"]) == ("retrying", "message", 1)
    assert "too large" in large["error"]
    assert small["state"] == "blocked"
    assert sick_kafka.read(topic) == []


def test_messages_without_a_key_for_a_compacted_topic(
    with_kafka: Installation, sick_kafka: KafkaCluster
) -> None:
    topic = sick_kafka.create_topic(**HEALTHY, cleanup_policy="compact")
    with_kafka.add(topic)
    assert with_kafka.doctor().outcome("topic-compaction") == "ok"

    with_kafka.add(topic, key=None)

    assert with_kafka.doctor().outcome("topic-compaction") == "failed"


def test_a_topic_that_a_slow_clock_would_offend(
    with_kafka: Installation, sick_kafka: KafkaCluster
) -> None:
    topic = sick_kafka.create_topic(**HEALTHY, message_timestamp_before_max_ms="1000")
    with_kafka.add(topic)
    assert with_kafka.doctor().outcome("topic-timestamps") == "warning"
