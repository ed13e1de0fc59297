"""systemd is told over a real socket what it wants to hear, and no lie."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from outbox.cli.systemd import notify, supervised, watchdog_interval_s
from tests.acceptance.relay_process import HOLDS, Scene
from tests.waiting import wait_until


class Systemd:
    """The other end of the notification socket."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._socket.settimeout(0.05)
        self.heard: list[str] = []
        self.environ = {"NOTIFY_SOCKET": address}

    def hears(self, words: str) -> None:
        wait_until(lambda: words in self.listen(), what=f"{words} among {self.heard}")

    def listen(self) -> list[str]:
        """Take what is there."""
        with suppress(TimeoutError):
            while True:
                self.heard.append(self._socket.recv(4096).decode())
        return self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    """Give a systemd that listens; parametrize it indirectly with an address."""
    made = Systemd(getattr(request, "param", str(tmp_path / "notify")))
    yield made
    made.close()


def test_it_is_told_in_the_file_system(systemd: Systemd) -> None:
    notify("STATUS=fine", systemd.environ)
    systemd.hears("STATUS=fine")


@pytest.mark.parametrize(
    "systemd", [f"@outbox-relay-test-{os.getpid()}"], ids=["abstract"], indirect=True
)
def test_ready_alive_stopping(systemd: Systemd) -> None:
    # Given a loop that is alive, and a watchdog
    environ = {**systemd.environ, "WATCHDOG_USEC": "100000"}
    stop = threading.Event()
    with supervised(lambda: True, stop, environ):
        systemd.hears("READY=1")
        systemd.hears("WATCHDOG=1")
        # When it is told to stop
        stop.set()
        systemd.hears("STOPPING=1")
        # Then the watchdog is still told: a drain may take longer than its patience
        count = systemd.heard.count("WATCHDOG=1")
        wait_until(lambda: systemd.listen().count("WATCHDOG=1") > count, what="another sign")
    assert systemd.heard[0] == "READY=1"


def test_a_loop_that_is_still_is_not_said_to_be_alive(systemd: Systemd) -> None:
    alive, looked = True, 0

    def ask() -> bool:
        nonlocal looked
        looked += 1
        return alive

    environ = {**systemd.environ, "WATCHDOG_USEC": "100000"}
    with supervised(ask, threading.Event(), environ):
        systemd.hears("WATCHDOG=1")
        alive = False
        before = looked
        wait_until(lambda: looked > before + 1, what="a look at the loop")
        systemd.listen()
        count, before = systemd.heard.count("WATCHDOG=1"), looked
        wait_until(lambda: looked > before + 2, what="more looks at the loop")
        assert systemd.listen().count("WATCHDOG=1") == count


def test_nobody_is_told_where_systemd_did_not_ask() -> None:
    with supervised(lambda: True, threading.Event(), {}):
        assert not [t for t in threading.enumerate() if t.name == "outbox-systemd"]


def test_a_systemd_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nobody")})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_watchdog_is_told_twice_within_its_patience(
    environ: dict[str, str], expected: float | None
) -> None:
    assert watchdog_interval_s(environ) == expected


@pytest.mark.postgresql
@pytest.mark.kafka
def test_the_relay_tells_it(systemd: Systemd, scene: Scene) -> None:
    relay = scene.relay(**systemd.environ, WATCHDOG_USEC="200000")
    systemd.hears("READY=1")
    relay.says(HOLDS)
    systemd.hears("WATCHDOG=1")
    relay.signal(signal.SIGTERM)
    assert relay.wait() == 0
    systemd.hears("STOPPING=1")


@pytest.mark.postgresql
@pytest.mark.kafka
def test_a_relay_that_waits_for_its_database_is_ready_and_alive(
    systemd: Systemd, scene: Scene
) -> None:
    """systemd would end it otherwise, and start it again, for as long as the database is away."""
    away = ("--database-url", "postgresql://127.0.0.1:1/shop")
    scene.relay(*away, **systemd.environ, WATCHDOG_USEC="200000")
    systemd.hears("READY=1")
    systemd.hears("WATCHDOG=1")
