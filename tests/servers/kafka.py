"""Kafka from its jars: a broker of one's own, or several."""

from __future__ import annotations

import base64
import shutil
import signal
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.servers.kafka_programs import java_command
from tests.servers.kafka_topics import QUIET, KafkaServer
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from types import TracebackType
    from typing import Self

SETTINGS = {
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "500",
    # A broker that was killed is refused as a stranger until its old session has ended.
    "broker.session.timeout.ms": "1500",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "4194304",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "replica.lag.time.max.ms": "2000",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
}
HEAP = ("-Xmx512m", "-Xms256m")
START_TIMEOUT = 60.0  # seconds
STOP_TIMEOUT = 30.0
PORT_ATTEMPTS = 5
CONTROLLER = 1


class KafkaBroker:
    """One broker of a cluster; number 1 is the controller too."""

    def __init__(self, number: int, *, proxied: bool, second_listener: bool) -> None:
        self.number = number
        self.port = free_port()
        self.proxied_port = free_port() if second_listener else None
        """Where a proxy must connect to."""
        self.advertised_port = free_port() if proxied else self.proxied_port
        """Where clients of the second listener are sent, so where a proxy must listen."""
        self._home = Path(tempfile.mkdtemp(prefix="outbox-kafka-"))
        self._process: ServerProcess | None = None

    @property
    def pid(self) -> int:
        """The process id of the Java machine."""
        return self._required_process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives, paused or not."""
        return self._process is not None and self._process.running

    def start(self) -> None:
        """Start on the same ports and data, and wait until the broker serves."""
        self.launch()
        self.wait_until_ready()

    def stop(self) -> None:
        """Shut down in order; a paused broker goes on first."""
        if self.running:
            self.resume()
            self._required_process.end(signal.SIGTERM, patience=STOP_TIMEOUT)

    def kill(self) -> None:
        """SIGKILL."""
        if self.running:
            self._required_process.kill()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers."""
        self._required_process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._required_process.send(signal.SIGCONT)

    def log_tail(self) -> str:
        """Return the end of the broker's log."""
        return self._required_process.tail()

    def close(self) -> None:
        """End for good and remove the data."""
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def create(self, cluster_id: str, controller_port: int, settings: Mapping[str, str]) -> None:
        """Write configuration and an empty data directory."""
        data = self._home / "data"
        data.mkdir()
        # What `kafka-storage format` would write; the broker adds the rest when it starts,
        # which spares one start of Java.
        identity = {"version": "1", "cluster.id": cluster_id, "node.id": str(self.number)}
        _write_properties(data / "meta.properties", identity)
        own = {"node.id": str(self.number), "log.dirs": str(data)}
        roles = self._roles_and_listeners(controller_port)
        _write_properties(self._home / "server.properties", {**own, **roles, **settings})

    def launch(self) -> None:
        """Start the process without waiting for it."""
        assert not self.running, f"broker {self.number} runs already"
        configuration = str(self._home / "server.properties")
        self._process = ServerProcess(
            [*java_command(*HEAP), "kafka.Kafka", configuration],
            directory=self._home,
            log=self._home / "server.log",
        )

    def wait_until_ready(self) -> None:
        """Wait until the broker is registered and leads its partitions."""
        admin = AdminClient(
            {
                "bootstrap.servers": f"127.0.0.1:{self.port}",
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 100,
                **QUIET,
            }
        )
        self._required_process.wait_until(
            lambda: self._is_ready(admin),
            what=f"Kafka broker {self.number} on port {self.port}",
            timeout=START_TIMEOUT,
        )

    def _is_ready(self, admin: AdminClient) -> bool:
        try:
            cluster = admin.list_topics(timeout=1)
        except KafkaException:
            return False
        partitions = [p for topic in cluster.topics.values() for p in topic.partitions.values()]
        mine = [partition for partition in partitions if self.number in partition.isrs]
        return self.number in cluster.brokers and all(partition.leader >= 0 for partition in mine)

    def _roles_and_listeners(self, controller_port: int) -> dict[str, str]:
        listening = [f"CLIENTS://127.0.0.1:{self.port}"]
        advertised = listening.copy()
        if self.proxied_port:
            listening.append(f"PROXIED://127.0.0.1:{self.proxied_port}")
            advertised.append(f"PROXIED://127.0.0.1:{self.advertised_port}")
        if self.number == CONTROLLER:
            listening.append(f"CONTROLLERS://127.0.0.1:{controller_port}")
        return {
            "process.roles": "broker,controller" if self.number == CONTROLLER else "broker",
            "listeners": ",".join(listening),
            "advertised.listeners": ",".join(advertised),
        }

    @property
    def _required_process(self) -> ServerProcess:
        assert self._process is not None, "the broker was never started"
        return self._process


class KafkaCluster(KafkaServer):
    """Brokers of one's own, to be stopped, killed and paused, together or one by one.

    Broker 1 is also the controller, so every other one can be paused or killed while the
    cluster goes on. With `proxied` each broker has a second listener; that of the brokers
    named there is advertised at `advertised_port`, where the test puts a proxy. Use it as a
    context manager, or call `create` and at last `close`.
    """

    def __init__(
        self,
        brokers: int = 1,
        proxied: Collection[int] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        java_command()  # raises what is missing before anything is made
        self._size = brokers
        self._proxied = proxied
        self._settings = dict(settings or {})
        self.brokers: list[KafkaBroker] = []

    @property
    def bootstrap_servers(self) -> str:
        """What a client takes as `bootstrap.servers`."""
        return ",".join(f"127.0.0.1:{broker.port}" for broker in self.brokers)

    @property
    def proxied_bootstrap_servers(self) -> str:
        """The same for a client that goes through the proxies."""
        return ",".join(f"127.0.0.1:{broker.advertised_port}" for broker in self.brokers)

    def broker(self, number: int) -> KafkaBroker:
        """Return a broker by its number, from 1."""
        return self.brokers[number - 1]

    @property
    def pid(self) -> int:
        """The process id of broker 1."""
        return self.broker(1).pid

    def create(self) -> None:
        """Make empty brokers and start them on free ports."""
        for attempt in range(1, PORT_ATTEMPTS + 1):
            try:
                self._configure()
                return self.start()
            except BaseException as failure:  # Ctrl-C too leaves no brokers behind
                self.close()
                if attempt == PORT_ATTEMPTS or "Address already in use" not in str(failure):
                    raise
        raise AssertionError("unreachable")

    def start(self) -> None:
        """Start every broker that is down and wait until all serve."""
        starting = [broker for broker in self.brokers if not broker.running]
        for broker in starting:
            broker.launch()
        for broker in starting:
            broker.wait_until_ready()

    def stop(self) -> None:
        """Shut all down in order, the controller last."""
        for broker in reversed(self.brokers):
            broker.stop()

    def kill(self) -> None:
        """SIGKILL all."""
        for broker in self.brokers:
            broker.kill()

    def restart(self) -> None:
        """Stop and start all."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP all."""
        for broker in self.brokers:
            broker.pause()

    def resume(self) -> None:
        """SIGCONT all."""
        for broker in self.brokers:
            broker.resume()

    def log_tail(self) -> str:
        """Return the ends of the brokers' logs."""
        return "\n".join(broker.log_tail() for broker in self.brokers)

    def close(self) -> None:
        """End for good and remove the data."""
        for broker in self.brokers:
            broker.close()

    def __enter__(self) -> Self:
        self.create()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _configure(self) -> None:
        second = bool(self._proxied)
        self.brokers = [
            KafkaBroker(number, proxied=number in self._proxied, second_listener=second)
            for number in range(1, self._size + 1)
        ]
        controller_port = free_port()
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        settings = {**SETTINGS, **self._common_settings(controller_port), **self._settings}
        for broker in self.brokers:
            broker.create(cluster_id, controller_port, settings)

    def _common_settings(self, controller_port: int) -> dict[str, str]:
        protocols = [f"{name}:PLAINTEXT" for name in ("CLIENTS", "PROXIED", "CONTROLLERS")]
        return {
            "controller.quorum.voters": f"{CONTROLLER}@127.0.0.1:{controller_port}",
            "controller.listener.names": "CONTROLLERS",
            "default.replication.factor": str(self._size),
            "inter.broker.listener.name": "CLIENTS",
            "listener.security.protocol.map": ",".join(protocols),
        }


def _write_properties(path: Path, properties: Mapping[str, str]) -> None:
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
