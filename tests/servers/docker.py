"""Servers in containers, where a Docker daemon answers and testcontainers is installed."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.servers.kafka import SETTINGS as KAFKA_SETTINGS
from tests.servers.kafka_topics import KafkaServer
from tests.servers.postgresql import SETTINGS, PostgreSQLServer

if TYPE_CHECKING:
    from collections.abc import Iterator

POSTGRESQL_VERSION = "17"
DEFAULT_DAEMON = "unix:///var/run/docker.sock"
INSIDE_A_CONTAINER = {"listen_addresses": "*", "unix_socket_directories": "/var/run/postgresql"}


@functools.cache
def usable() -> bool:
    """Tell whether containers can be started: a `docker` command alone says nothing."""
    return importlib.util.find_spec("testcontainers") is not None and _daemon_answers()


def _daemon_answers() -> bool:
    try:
        with _connect_to_daemon() as daemon:
            daemon.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in daemon.recv(64)
    except OSError:
        return False


def _connect_to_daemon() -> socket.socket:
    address = urlsplit(os.environ.get("DOCKER_HOST") or DEFAULT_DAEMON)
    if address.scheme == "tcp":
        return socket.create_connection((address.hostname or "", address.port or 2375), timeout=2)
    daemon = socket.socket(socket.AF_UNIX)
    daemon.settimeout(2)
    try:
        daemon.connect(address.path)
    except OSError:
        daemon.close()
        raise
    return daemon


@contextlib.contextmanager
def postgresql() -> Iterator[PostgreSQLServer]:
    """Run PostgreSQL in a container."""
    settings = {**SETTINGS, **INSIDE_A_CONTAINER}
    flags = " ".join(f"-c {name}={value}" for name, value in settings.items() if " " not in value)
    containers = _containers("postgres")
    container = containers.PostgresContainer(f"postgres:{POSTGRESQL_VERSION}", driver=None)
    with container.with_command(f"postgres {flags}") as running:
        yield PostgreSQLServer(running.get_connection_url())


@contextlib.contextmanager
def kafka() -> Iterator[KafkaServer]:
    """Run Kafka in a container."""
    container = _containers("kafka").KafkaContainer().with_kraft()
    for name, value in KAFKA_SETTINGS.items():
        container = container.with_env(f"KAFKA_{name.replace('.', '_').upper()}", value)
    with container as running:
        yield KafkaServer(running.get_bootstrap_server())


def _containers(name: str) -> Any:
    # Newer versions moved the modules and warn about the old place, which is an error here.
    try:
        return importlib.import_module(f"testcontainers.community.{name}")
    except ModuleNotFoundError:
        return importlib.import_module(f"testcontainers.{name}")
