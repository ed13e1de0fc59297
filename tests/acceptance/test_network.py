"""A relay process between a database and a broker, each behind a network that is spoilt.

Writers go on all the time, past the network, and roll back every second transaction.
"""

from __future__ import annotations

import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.acceptance import relay_process
from tests.acceptance.producers import Producers, late_of
from tests.acceptance.relay_process import Scene, said_at, warnings
from tests.servers.postgresql_programs import server_account, temporary_root
from tests.servers.proxy import Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers.kafka import KafkaCluster
    from tests.servers.postgresql import PrivatePostgreSQL

pytestmark = [pytest.mark.kafka, pytest.mark.postgresql]

#: What is delivered after the network's recovery must be within so many seconds. Seen: 1 s, and 6 s
#: where the network had swallowed what the client still waits for.
RECOVERY_S = 20.0

#: A network that swallows everything is noticed within half of a lease of 10 s; seen: 5.2 s.
NOTICE_S = 9.0


@dataclass
class Network:
    """A scene whose relays reach their servers through proxies."""

    scene: Scene
    broker: Proxy
    database: Proxy


@contextmanager
def networked(scene: Scene, broker: KafkaCluster) -> Iterator[Network]:
    one = broker.broker(1)
    assert one.proxied_port is not None
    assert one.advertised_port is not None
    port = urlsplit(scene.url).port
    assert port is not None
    with Proxy(port) as database, Proxy(one.proxied_port, one.advertised_port) as kafka:
        scene.commands.variables |= {
            "OUTBOX_DATABASE_URL": scene.url.replace(f":{port}/", f":{database.port}/"),
            "OUTBOX_KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.port}",
        }
        yield Network(scene, kafka, database)


@pytest.fixture
def network(fragile: Scene, broker: KafkaCluster) -> Iterator[Network]:
    with networked(fragile, broker) as made:
        yield made


@pytest.fixture
def certificate() -> Iterator[dict[str, str]]:
    """Give the settings of a server with a certificate of its own."""
    with tempfile.TemporaryDirectory(dir=temporary_root()) as directory:
        yield _certified(Path(directory))


def _certified(directory: Path) -> dict[str, str]:
    certificate, key = directory / "server.crt", directory / "server.key"
    subprocess.run(
        [
            *["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=localhost"],
            *["-newkey", "rsa:2048", "-out", str(certificate), "-keyout", str(key)],
        ],
        check=True,
        capture_output=True,
    )
    if account := server_account():
        for path in (directory, certificate, key):
            account.owns(path)
    return {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}


class Ordeal:
    """One relay that lives through one fault after the other."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.relay = scene.holder()
        self._said = 0

    def noticed(self, within_s: float = RECOVERY_S) -> None:
        """Wait until the relay has said that it waits for something."""
        self._said += 1
        wait_until(
            lambda: len(warnings(self.relay)) == self._said,
            what=f"warning {self._said} among {self.relay.lines}",
            timeout=within_s,
        )

    def over(self) -> None:
        """Wait until all that was committed so far has arrived: the network is well again."""
        self.scene.wait_until_delivered(RECOVERY_S)
        wait_until(
            lambda: sum("going on" in line for line in self.relay.lines) == self._said,
            what=f"the end of outage {self._said} among {self.relay.lines}",
        )

    def survived(self) -> None:
        """Nothing is lost, invented or out of order, and each outage was said once."""
        self.scene.wait_until_delivered()
        findings = self.scene.verdict()
        assert findings.faults == 0, findings
        assert len(warnings(self.relay)) == self._said, self.relay.lines
        assert self.relay.process.poll() is None, self.relay.lines


def some_time(scene: Scene) -> None:
    """Let some hundred messages be committed."""
    before = sum(scene.committed().values())
    wait_until(lambda: sum(scene.committed().values()) > before + 300, what="300 messages")


def test_a_bad_network_to_the_broker_loses_and_reorders_nothing(network: Network) -> None:
    proxy = network.broker
    ordeal = Ordeal(network.scene)
    with network.scene.flow():
        # A slow network is none to speak of
        proxy.delay(0.05)
        proxy.throttle(200_000)
        some_time(network.scene)
        ordeal.over()
        proxy.restore()
        # Nor is a byte that flips: Kafka checks each batch
        proxy.corrupt("requests")
        some_time(network.scene)
        proxy.restore()
        ordeal.over()
        # Nor are connections that break and can be made anew
        proxy.cut()
        some_time(network.scene)
        ordeal.over()
        # Connections that break and are refused
        proxy.refuse()
        proxy.cut()
        ordeal.noticed()
        proxy.restore()
        ordeal.over()
        # A network that takes everything and passes nothing on
        proxy.swallow()
        ordeal.noticed(NOTICE_S)
        proxy.restore()
        ordeal.over()
    ordeal.survived()


def test_a_bad_network_to_the_database_loses_and_reorders_nothing(network: Network) -> None:
    proxy = network.database
    ordeal = Ordeal(network.scene)
    with network.scene.flow():
        # A slow network is none to speak of
        proxy.delay(0.02)
        proxy.throttle(500_000)
        some_time(network.scene)
        ordeal.over()
        proxy.restore()
        # Connections that break and can be made anew
        proxy.cut()
        ordeal.noticed()
        ordeal.over()
        # Connections that break and are refused
        proxy.refuse()
        proxy.cut()
        ordeal.noticed()
        proxy.restore()
        ordeal.over()
        # A network that takes everything and passes nothing on
        proxy.swallow()
        ordeal.noticed(NOTICE_S)
        proxy.restore()
        ordeal.over()
    ordeal.survived()


def test_a_relay_cut_off_from_the_database_stops_sending_before_another_begins(
    network: Network, broker: KafkaCluster
) -> None:
    # Given a relay that is busy, and another that stands by and has a network of its own
    scene = network.scene
    bootstrap = f"bootstrap.servers={broker.bootstrap_servers}"
    cut_off = scene.holder()
    with scene.flow():
        some_time(scene)
        other = scene.relay("--database-url", scene.url, "-X", bootstrap)
        other.says(relay_process.STANDBY)
        old = Producers(broker, scene.topic).all
        # When the first one's network to the database stands still
        network.database.hold()
        # Then it says so while it still has the lane, and the other one goes on after it
        cut_off.says("the server has not answered", timeout=NOTICE_S)
        other.says(relay_process.HOLDS)
        assert said_at(cut_off, "has not answered") < said_at(other, relay_process.HOLDS)
        some_time(scene)
        # And when the network is well again the first one stands by
        network.database.restore()
        cut_off.says(relay_process.STANDBY)
    scene.wait_until_delivered()
    assert scene.verdict().faults == 0, scene.verdict()
    # And nothing that it sent lies behind what the other one sent
    assert late_of(broker, scene.topic, old) == (0, 0)


def test_over_tls_a_byte_that_flips_on_the_way_from_the_database_reaches_nobody(
    new_postgresql: Callable[..., PrivatePostgreSQL],
    broker: KafkaCluster,
    tmp_path: Path,
    certificate: dict[str, str],
) -> None:
    # Given a database that speaks TLS; without it nothing above TCP checks what PostgreSQL says
    server = new_postgresql(settings=certificate)
    topic = broker.create_topic(partitions=2)
    url = f"{server.create_database()}?sslmode=require"
    with (
        relay_process.scene(url, broker, tmp_path, topic) as scene,
        networked(scene, broker) as network,
    ):
        ordeal = Ordeal(scene)
        # When bytes flip in what it answers
        network.database.corrupt("answers")
        scene.write(each=50, padding=200)
        ordeal.noticed()
        network.database.restore()
        # Then the connection breaks, and is made anew
        ordeal.over()
        ordeal.survived()
