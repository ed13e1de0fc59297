"""The example for asyncio, run as its README says: as processes, against a real Kafka."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from outbox.inbox import from_kafka
from tests.acceptance.command import ROOT, environment
from tests.alembic.conftest import url_for
from tests.alembic.project import plain
from tests.servers.ports import free_port
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from tests.servers.kafka_topics import KafkaServer

APP = Path(ROOT, "examples", "fastapi_app")
TOPIC = "parcels"


class Program:
    """A program of the example; what it says is kept, and it is ended as by Ctrl-C."""

    def __init__(self, *command: str, **variables: str) -> None:
        variables["PYTHONPATH"] = f"{APP}{os.pathsep}{ROOT}"
        variables["VIRTUAL_ENV"] = sys.prefix
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            command,
            cwd=APP,
            env={**environment(), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def end(self, number: int = signal.SIGINT) -> int:
        """Tell it to end, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def run(*command: str, **variables: str) -> str:
    """Run a program to its end, which must be a good one, and return what it said."""
    with Program(*command, **variables) as program:
        code = program.process.wait(60)
    assert code == 0, program.said
    return program.said


@pytest.fixture(scope="module")
def topic(kafka: KafkaServer) -> str:
    """Give the topic of the example."""
    return kafka.create_topic(TOPIC)


@pytest.fixture(params=["sqlite", pytest.param("psycopg", marks=pytest.mark.postgresql)])
def variables(request: pytest.FixtureRequest, tmp_path: Path, kafka: KafkaServer) -> dict[str, str]:
    """Give the settings of the service and the relay, on an empty database of each kind."""
    return {
        "OUTBOX_DATABASE_URL": plain(url_for(request.param, request, tmp_path)),
        "OUTBOX_KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
    }


def serve(variables: dict[str, str], port: int) -> Program:
    """Start the service alone."""
    uvicorn = (sys.executable, "-m", "uvicorn", "parcels.app:app", "--port", str(port))
    return Program(*uvicorn, **variables)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """Give a client for the service that will be there."""
    with httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", timeout=10.0) as client:
        yield client


def port_of(client: httpx.Client) -> int:
    assert client.base_url.port
    return client.base_url.port


def answers(client: httpx.Client, program: Program) -> None:
    """Wait until the service is there."""

    def asked() -> bool:
        assert program.process.poll() is None, program.said
        try:
            return client.get("/openapi.json").is_success
        except httpx.TransportError:
            return False

    wait_until(asked, what="the service to answer", timeout=60.0)


def label(client: httpx.Client, parcel: str) -> Any:
    return client.get(f"/parcels/{parcel}").json()["label"]


def test_a_booking_goes_around(
    variables: dict[str, str], kafka: KafkaServer, topic: str, client: httpx.Client
) -> None:
    # Given the tables, and the service
    run(sys.executable, "-m", "alembic", "upgrade", "head", **variables)
    with serve(variables, port_of(client)) as service:
        answers(client, service)
        # When a parcel is booked
        booked = client.post("/parcels", json={"recipient": "Ada"}).json()
        [message_id] = client.get(f"/parcels/{booked['id']}/messages").json()
        # and the relay is run once
        run(sys.executable, "-m", "outbox.cli.main", "run", "--drain", **variables)
        # Then the message is in Kafka
        [message] = [
            message for message in kafka.read(topic) if message.key() == booked["id"].encode()
        ]
        received = from_kafka(message)
        assert (received.id, received.type) == (message_id, "parcel.booked")
        assert json.loads(received.payload or b"") == {
            "parcel": booked["id"],
            "recipient": "Ada",
        }
        # and has taken effect
        wait_until(lambda: label(client, booked["id"]), what="the label", timeout=60.0)
        assert label(client, booked["id"]) == "To: Ada"
        # and the service ends in order
        assert service.end(signal.SIGTERM) in (0, -signal.SIGTERM), service.said
    assert "Traceback" not in service.said
    # and the models, the migrations and the database agree
    assert "No new upgrade operations" in run(sys.executable, "-m", "alembic", "check", **variables)


def test_the_service_refuses_old_tables(variables: dict[str, str], client: httpx.Client) -> None:
    with serve(variables, port_of(client)) as service:
        assert service.process.wait(60) != 0
    assert "run `alembic upgrade head`" in service.said


def test_one_command_starts_everything(tmp_path: Path, client: httpx.Client) -> None:
    # Given nothing but the command, with a Kafka within
    url, port = f"sqlite:///{tmp_path}/parcels.db", str(port_of(client))
    with Program(str(APP / "run"), OUTBOX_DATABASE_URL=url, PORT=port) as everything:
        answers(client, everything)
        # When a parcel is booked, then it gets its label
        booked = client.post("/parcels", json={"recipient": "Ben"}).json()
        wait_until(lambda: label(client, booked["id"]), what="the label", timeout=60.0)
        # and Ctrl-C ends everything
        assert everything.end() == 0, everything.said
    assert "Traceback" not in everything.said


def test_its_own_tests_pass() -> None:
    run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
