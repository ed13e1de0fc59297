"""`examples/run` says what is wrong, watches over its processes, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.cookiejar import CookieJar
from pathlib import Path
from urllib.parse import urlencode

import pytest

from examples.running import kafka, processes
from examples.running.processes import Ended, Plan, Processes
from examples.running.setup import SetupError
from tests.acceptance.command import ROOT
from tests.examples.running import Examples, ask
from tests.servers.ports import free_port
from tests.servers.process import alive, children
from tests.waiting import wait_until

# What is wrong from the start


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"SHOP_PORT": "http"}, "SHOP_PORT='http' is not a port: use a number from 1 to 65535"),
        ({"BILLING_PORT": "0"}, "BILLING_PORT='0' is not a port"),
        ({"SHOP_PORT": "8123", "BILLING_PORT": "8123"}, "are both 8123: choose two"),
        ({"DATABASE_URL_SHOP": "mysql://h/d"}, "DATABASE_URL_SHOP begins with 'mysql'"),
        (
            {"DATABASE_URL_SHOP": "postgresql://h/d", "DATABASE_URL_BILLING": "postgresql://h/d"},
            "each service needs a database of its own",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_started(
    variables: dict[str, str], complaint: str
) -> None:
    with Examples(**variables) as running:
        assert running.process.wait(30) == 1
    assert running.said.startswith("examples/run: ")
    assert complaint in running.said
    assert len(running.lines) == 1


def test_a_port_that_is_taken_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        with Examples(SHOP_PORT=str(port)) as running:
            assert running.process.wait(30) == 1
    assert f"cannot listen on 127.0.0.1:{port} (Address already in use)" in running.said
    assert f"SHOP_PORT={port + 100} examples/run" in running.said


def test_help_names_every_setting() -> None:
    with Examples("--help") as running:
        assert running.process.wait(30) == 0
    for word in ("DATABASE_URL_SHOP", "KAFKA_BOOTSTRAP_SERVERS", "TRACES_URL", "--directory"):
        assert word in running.said


def test_a_kafka_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "_PATIENCE_S", 0.2)
    with (
        pytest.raises(SetupError, match="could not make the topic orders: "),
        kafka.kafka("127.0.0.1:1"),
    ):
        pass


# While it runs, and how it ends


@pytest.mark.slow
def test_it_revives_who_dies_and_keeps_what_it_is_told_to_keep(tmp_path: Path) -> None:
    # Given
    folder = tmp_path / "kept"
    with Examples("--directory", str(folder)) as running:
        running.ready()

        # When the consumer and the relays die, then they are started again
        for name in ("shop consumer", "billing relay"):
            os.kill(running.pid(name), signal.SIGKILL)
            running.says(f"{name:<16} | was killed by SIGKILL; starting it again")
        wait_until(lambda: running.pid("shop consumer"), what="the new consumer")

        # And when the command itself is killed, then nobody survives it
        family = children(running.process.pid)
        assert len(family) == 6
        running.process.kill()
        wait_until(lambda: not any(map(alive, family)), what="the end of all processes")
    assert {file.name for file in folder.iterdir()} >= {"shop.db", "billing.db"}

    # And it can go on with what it kept, though with another Kafka
    with Examples("--directory", str(folder)) as running:
        running.ready()
        order = place_order(running.shop)
        wait_until(lambda: ask(order)["is_over"], what="the end of an order's journey")
        assert "starting it again" not in running.said

        # And without its pages a service is of no use
        os.kill(running.pid("billing web"), signal.SIGKILL)
        assert running.process.wait(30) == 1
    assert "examples/run: billing web was killed by SIGKILL" in running.said


def place_order(shop: str) -> str:
    """Place an order as a browser would, and return where it is told of as JSON."""
    cookies = CookieJar()
    visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    with visitor.open(f"{shop}/") as page:
        mark = re.search(r'csrfmiddlewaretoken" value="(\w+)"', page.read().decode())
    assert mark
    basket = {"csrfmiddlewaretoken": mark[1], "customer": "ada", "fork-440": "1"}
    with visitor.open(f"{shop}/", urlencode(basket).encode()) as page:
        return str(page.url).replace("/orders/", "/api/orders/").rstrip("/")


@pytest.mark.slow
def test_it_ends_in_order_while_it_is_still_starting(tmp_path: Path) -> None:
    with Examples(TMPDIR=str(tmp_path)) as running:
        running.says("shop prepare")
        assert running.stop(signal.SIGTERM) == 0
    assert list(tmp_path.iterdir()) == []


# The watching itself, with small processes


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def running(out: io.StringIO) -> Iterator[Processes]:
    with Processes(out) as made:
        yield made


def plan(code: str, *, vital: bool = False) -> Plan:
    return Plan("it", (sys.executable, "-c", code), Path(ROOT), {}, vital=vital)


def watch(running: Processes, seconds: float = 20.0) -> None:
    """Watch until somebody ends whom nobody revives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        running.watch()
        threading.Event().wait(0.01)
    raise AssertionError(f"all went on for {seconds} s")


def test_a_process_that_dies_again_and_again_ends_everything(
    running: Processes, out: io.StringIO
) -> None:
    running.start(plan("print('hello'); raise SystemExit(3)"))
    with pytest.raises(Ended, match="it ended with 3, for the 5th time within 20 s"):
        watch(running)
    assert out.getvalue().count("| ended with 3; starting it again") == 4
    assert out.getvalue().count("| hello") == 5


def test_a_vital_process_is_not_revived(running: Processes) -> None:
    running.start(plan("", vital=True))
    with pytest.raises(Ended, match="it ended with 0"):
        watch(running)


def test_a_preparation_that_fails_ends_everything(running: Processes, out: io.StringIO) -> None:
    with pytest.raises(Ended, match="it ended with code 4"):
        running.run(plan("print('why'); raise SystemExit(4)"))
    assert "| why" in out.getvalue()


def test_a_process_that_does_not_end_is_killed(
    running: Processes, out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PATIENCE_S", 0.5)
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)"
    running.start(plan(f"{deaf}; signal.pause()"))
    wait_until(lambda: "deaf" in out.getvalue(), what="the process to be deaf")
    running.stop()
    assert "did not end within 0.5 s; killed" in out.getvalue()
