"""python -m parcels: the tables, the relay and the service, and a Kafka if none is given."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from outbox.demo.cluster import run_cluster
from parcels.settings import HERE, TOPIC, database_url, kafka

MIGRATE = [sys.executable, "-m", "alembic", "upgrade"]
RELAY = [sys.executable, "-m", "outbox.cli.main", "run"]


def main() -> None:
    """Run until Ctrl-C."""
    port = free_port()
    os.environ["OUTBOX_DATABASE_URL"] = database_url()
    if code := subprocess.call([*MIGRATE, "head"], cwd=HERE):  # noqa: S603 - our own
        sys.exit(code)
    with broker(), relay():
        uvicorn.run("parcels.app:app", port=port)


def free_port() -> int:
    """Return where to listen; end here, before anything is started, if that cannot be."""
    port = os.environ.get("PORT") or "8003"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        sys.exit(f"PORT={port}: a number from 1 to 65535 is needed")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(port)))
        except OSError as error:
            sys.exit(
                f"cannot listen on 127.0.0.1:{port} ({error.strerror}); choose another port: "
                "PORT=8103 examples/fastapi_app/run"
            )
    return int(port)


@contextmanager
def broker() -> Iterator[None]:
    """Have a Kafka: the given one, or a mock cluster in this process."""
    if kafka():
        yield
        return
    with run_cluster(TOPIC) as cluster:
        os.environ["OUTBOX_KAFKA_BOOTSTRAP_SERVERS"] = cluster.bootstrap_servers
        yield


@contextmanager
def relay() -> Iterator[None]:
    """Run the relay beside the service, as a sidecar does."""
    # A session of its own, so that Ctrl-C ends the service first, then the relay.
    process = subprocess.Popen(RELAY, cwd=HERE, start_new_session=True)  # noqa: S603 - our own
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
