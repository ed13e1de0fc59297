"""Debezium's connector for PostgreSQL in a Kafka Connect of its own, ended with the benchmark."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.rivals.fetching import RivalUnavailable, jars
from tests.servers.availability import ServerUnavailableError
from tests.servers.maven import java
from tests.servers.ports import free_port
from tests.servers.process import ServerProcess
from tests.waiting import wait_until

POM = Path(__file__).parent / "debezium_jars" / "pom.xml"

#: A fixed heap, and the collector for throughput: the machine has few cores and nothing waits.
JAVA = ("-Xms1g", "-Xmx1g", "-XX:+UseParallelGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")

WORKER = {
    # What is in the columns goes out as it is: nothing is parsed or wrapped in JSON.
    "key.converter": "org.apache.kafka.connect.storage.StringConverter",
    "value.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
    "header.converter": "org.apache.kafka.connect.storage.StringConverter",
    "plugin.discovery": "service_load",
    "topic.creation.enable": "false",
    # Connect's default is a producer without idempotence; ours has it.
    "producer.acks": "all",
    "producer.enable.idempotence": "true",
    # Idempotence keeps the order with five as well, and one would wait for each answer.
    "producer.max.in.flight.requests.per.connection": "5",
    "producer.linger.ms": "5",
    "producer.batch.size": "262144",
    "producer.buffer.memory": "134217728",
    "producer.compression.type": "none",
}

CONNECTOR = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "tasks.max": "1",
    "plugin.name": "pgoutput",
    "publication.autocreate.mode": "disabled",
    "snapshot.mode": "no_data",
    "topic.prefix": "rival",
    "tombstones.on.delete": "false",
    "binary.handling.mode": "bytes",
    # Its defaults are 2,048, 8,192 and 500 ms.
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "1",
    "transforms": "outbox",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.route.topic.replacement": "${routedByValue}",
    "transforms.outbox.table.fields.additional.placement": "traceparent:header",
}


class DebeziumConnect:
    """One worker of Kafka Connect with one connector, which can be stopped and resumed.

    Use it as a context manager. Between `stop` and `resume` the JVM stays, and stays warm.
    """

    def __init__(self, bootstrap: str, worker: Mapping[str, str]) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="outbox-debezium-"))
        self._address = f"http://127.0.0.1:{free_port()}"
        self._worker = {**WORKER, **worker, "bootstrap.servers": bootstrap}
        self._process: ServerProcess | None = None

    def add(self, connector: Mapping[str, str]) -> None:
        """Make the connector and wait until it streams."""
        self._ask("POST", "connectors", {"name": "outbox", "config": {**CONNECTOR, **connector}})
        self._await("RUNNING")

    def stop(self) -> None:
        """Close the connector's connections; the worker's process stays."""
        self._ask("PUT", "connectors/outbox/stop")
        self._await("STOPPED")

    def resume(self) -> None:
        """Start the connector again; returns at once."""
        self._ask("PUT", "connectors/outbox/resume")

    @property
    def pid(self) -> int:
        """The process id of the Java machine."""
        assert self._process is not None
        return self._process.pid

    def look(self) -> None:
        """Raise RuntimeError with the worker's words if the connector failed."""
        assert self._process is not None
        answer = self._ask("GET", "connectors/outbox/status")
        for part in (answer["connector"], *answer["tasks"]):
            if part["state"] == "FAILED":
                raise RuntimeError(f"{part.get('trace', part)}\n{self._process.tail(5)}")

    def _await(self, state: str) -> None:
        def reached() -> bool:
            self.look()
            answer = self._ask("GET", "connectors/outbox/status")
            tasks = [task["state"] for task in answer["tasks"]]
            wanted = ["RUNNING"] if state == "RUNNING" else []
            return answer["connector"]["state"] == state and tasks == wanted

        wait_until(reached, what=f"the connector to be {state}", timeout=60)

    def _ask(self, method: str, path: str, body: object | None = None) -> Any:
        request = urllib.request.Request(
            f"{self._address}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as refused:
            raise RuntimeError(f"{method} {path}: {refused.read().decode()}") from refused

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        try:
            program = java("Kafka Connect")
        except ServerUnavailableError as absent:
            raise RivalUnavailable(str(absent)) from absent
        properties = self._home / "worker.properties"
        settings = {
            **self._worker,
            "listeners": self._address,
            "offset.storage.file.filename": str(self._home / "offsets"),
        }
        properties.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        main = "org.apache.kafka.connect.cli.ConnectStandalone"
        self._process = ServerProcess(
            [program, *JAVA, "-cp", f"{jars(POM)}/*", main, str(properties)],
            directory=self._home,
            log=self._home / "connect.log",
        )
        self._process.wait_until(self._answers, what="Kafka Connect", timeout=120)

    def _answers(self) -> bool:
        try:
            return isinstance(self._ask("GET", "connectors"), list)
        except (OSError, ValueError, RuntimeError):
            return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
        shutil.rmtree(self._home, ignore_errors=True)


def versions() -> dict[str, str]:
    """Return the versions that the pom names."""
    found = re.findall(
        r"<artifactId>(.+?)</artifactId>\s*<version>(.+?)</version>", POM.read_text()
    )
    return {name: version for name, version in found if name.startswith(("debezium-c", "connect"))}


def database_settings(url: str) -> dict[str, str]:
    """Return where Debezium finds a database, in its own words."""
    parts = urlsplit(url)
    return {
        "database.hostname": parts.hostname or "localhost",
        "database.port": str(parts.port or 5432),
        "database.user": parts.username or "postgres",
        "database.password": parts.password or "",
        "database.dbname": parts.path.strip("/"),
    }
