"""A Kafka where who logs in may do only what is granted, and one whose disk is small."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.servers.kafka import KafkaCluster
from tests.servers.kafka_topics import QUIET
from tests.servers.proxy import Proxy

#: The second listener wants a login. Whoever comes by the first one may do everything.
SETTINGS = {
    "allow.everyone.if.no.acl.found": "false",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "listener.name.proxied.plain.sasl.jaas.config": (
        "org.apache.kafka.common.security.plain.PlainLoginModule required "
        'user_relay="right" user_stranger="right";'
    ),
    "listener.name.proxied.sasl.enabled.mechanisms": "PLAIN",
    "listener.security.protocol.map": (
        "CLIENTS:PLAINTEXT,PROXIED:SASL_PLAINTEXT,CONTROLLERS:PLAINTEXT"
    ),
    "super.users": "User:ANONYMOUS",
}


def login(cluster: KafkaCluster, user: str) -> dict[str, str]:
    """Return the variables with which a relay logs in."""
    return {
        "OUTBOX_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{cluster.broker(1).advertised_port}",
        "OUTBOX_KAFKA_SECURITY_PROTOCOL": "sasl_plaintext",
        "OUTBOX_KAFKA_SASL_MECHANISM": "PLAIN",
        "OUTBOX_KAFKA_SASL_USERNAME": user,
        "OUTBOX_KAFKA_SASL_PASSWORD": "right",
    }


@contextmanager
def guarded_kafka() -> Iterator[KafkaCluster]:
    """Give two brokers, the first of which has a proxy before the listener that wants a login."""
    with KafkaCluster(2, proxied=(1,), settings=SETTINGS) as cluster:
        first = cluster.broker(1)
        assert first.proxied_port is not None
        assert first.advertised_port is not None
        with Proxy(first.proxied_port, first.advertised_port):
            yield cluster


def allow(cluster: KafkaCluster, user: str, topic: str, *operations: AclOperation) -> None:
    """Let a user do this with a topic."""
    _allow(cluster, user, (ResourceType.TOPIC, topic), *operations)


def allow_transactions(cluster: KafkaCluster, user: str) -> None:
    """Let a user publish exactly once, to the topics that it may write to."""
    read, write = AclOperation.READ, AclOperation.WRITE
    _allow(cluster, user, (ResourceType.TRANSACTIONAL_ID, "*"), write, AclOperation.DESCRIBE)
    _allow(cluster, user, (ResourceType.GROUP, "*"), read)


def _allow(
    cluster: KafkaCluster, user: str, what: tuple[ResourceType, str], *operations: AclOperation
) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap_servers, **QUIET})
    bindings = [
        AclBinding(
            *(*what, ResourcePatternType.LITERAL),
            *(f"User:{user}", "*", operation, AclPermissionType.ALLOW),
        )
        for operation in operations
    ]
    for done in admin.create_acls(bindings).values():
        done.result(30)


class SmallDiskKafka(KafkaCluster):
    """One broker whose data lie on a disk of so many MiB. It needs the right to mount."""

    def __init__(self, size_mib: int) -> None:
        super().__init__(settings=_SMALL_FILES)
        self._size_mib = size_mib
        self._mounted: Path | None = None

    def make_room(self, size_mib: int) -> None:
        """Give it a larger disk with the same data."""
        _mount(["-o", f"remount,size={size_mib}m", str(self._mounted)])

    def close(self) -> None:
        """End for good and remove the data."""
        self.kill()
        if self._mounted is not None:
            subprocess.run(["umount", str(self._mounted)], check=True)
            self._mounted = None
        super().close()

    def _configure(self) -> None:
        super()._configure()
        data = self.broker(1)._home / "data"
        identity = (data / "meta.properties").read_bytes()
        _mount(["-t", "tmpfs", "-o", f"size={self._size_mib}m", "outbox-test", str(data)])
        self._mounted = data
        (data / "meta.properties").write_bytes(identity)


#: So that what fills the disk is what is sent, and not files that are reserved.
_SMALL_FILES = {"log.index.size.max.bytes": "4096", "log.segment.bytes": str(64 * 1024 * 1024)}


def _mount(arguments: list[str]) -> None:
    """Mount, or skip the test, in CI too: what is missing is no server but the right to do that."""
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` to make a small disk with")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
