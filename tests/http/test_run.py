"""`outbox-relay run` answers truly while its servers come and go, and until its end."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from outbox.metrics.catalogue import METRICS
from outbox.version import __version__
from tests.acceptance.relay_process import HOLDS, STANDBY, Scene, warnings
from tests.http.asking import endpoints_of
from tests.servers.ports import free_port
from tests.servers.postgresql import PrivatePostgreSQL
from tests.waiting import wait_until

pytestmark = [pytest.mark.postgresql, pytest.mark.kafka]

PROBES = ("/livez", "/readyz", "/healthz")
ANY_PORT = ("--http-port", "0")


def test_a_relay_at_work_is_well_and_counts_what_it_sends(scene: Scene) -> None:
    # Given a relay
    relay = scene.relay(*ANY_PORT)
    asked = endpoints_of(relay)
    relay.says(HOLDS)
    # When it has sent messages
    scene.write(each=50)
    scene.wait_until_delivered()
    # Then every endpoint says so
    assert [asked.status(path) for path in PROBES] == [200, 200, 200]
    wait_until(lambda: asked.health["lag"] is not None, what="a sample")
    health = asked.health
    assert health["schema"] == "outbox.health/1"
    assert (health["state"], health["trouble"]) == ("relaying", None)
    assert health["lanes"] == {"default": 1}
    assert (health["version"], health["relay"]) == (__version__, "default")
    assert asked.value("outbox_messages_sent_total", topic=scene.topic) == 350
    assert asked.value("outbox_relay_leader") == 1
    assert asked.value("outbox_build_info", version=__version__) == 1
    # And nothing of the catalogue is missing, histograms with their parts
    names = {metric.prometheus_name for metric in METRICS if metric.kind != "histogram"}
    names -= {"outbox_undeclared_lane_messages_total", "outbox_topic_closed"}
    assert names <= asked.series.keys()
    assert asked.value("outbox_send_duration_seconds_count") is not None


def test_a_broker_that_is_away_makes_it_neither_dead_nor_unready(scene: Scene) -> None:
    # Given a relay whose broker is not there
    with _holds_port() as port:
        relay = scene.relay(*ANY_PORT, "-X", f"bootstrap.servers=127.0.0.1:{port}", "--lease", "2")
        asked = endpoints_of(relay)
        scene.write(each=10)
        relay.says("; waiting")
        # Then it is alive and ready, and the whole truth is not hidden
        asked.becomes("/readyz", 200)
        assert (asked.status("/livez"), asked.status("/healthz")) == (200, 503)
        assert asked.health["trouble"]["waiting_for"] == "broker"
        assert asked.value("outbox_relay_waiting", cause="broker") == 1
        # And the backlog is told, though nobody holds the lane
        wait_until(
            lambda: asked.value("outbox_messages_pending") == 70, what="the backlog to be sampled"
        )


@contextmanager
def _holds_port() -> Iterator[int]:
    """Yield a port that nobody else can take, and that takes nobody."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_a_database_that_is_away_makes_it_unready_only_before_it_was_seen(
    fragile: Scene, package_postgresql: PrivatePostgreSQL
) -> None:
    # Given a relay that has not seen its database yet
    package_postgresql.stop()
    relay = fragile.relay(*ANY_PORT)
    asked = endpoints_of(relay)
    relay.says("; waiting")
    assert (asked.status("/livez"), asked.status("/readyz")) == (200, 503)
    # When the database is there, then the relay is ready
    package_postgresql.start()
    asked.becomes("/readyz", 200)
    asked.becomes("/healthz", 200)
    # And stays so when the database goes away again
    package_postgresql.stop()
    asked.becomes("/healthz", 503)
    assert (asked.status("/livez"), asked.status("/readyz")) == (200, 200)
    assert asked.health["trouble"]["waiting_for"] == "database"
    failures = asked.value("outbox_relay_failures_total", cause="database")
    assert failures is not None
    assert failures >= 2


def test_a_database_that_is_frozen_is_waited_for_and_the_relay_is_alive(fragile: Scene) -> None:
    """A statement then never ends, and neither TCP nor a restart would mend it."""
    # Given a relay that counts as dead after half a second without a turn of its loop
    relay = fragile.relay(*ANY_PORT, "--stall-timeout", "0.5")
    asked = endpoints_of(relay)
    relay.says(HOLDS)
    with _frozen(fragile):
        # When its statement has taken longer than that
        wait_until(lambda: asked.health["loop"]["seconds"] > 1, what="the loop to be still")
        # Then it is alive, and says where it is
        assert (asked.status("/livez"), asked.status("/readyz")) == (200, 200)
        assert asked.health["loop"]["in_call_to"] == "database"
        # And can be told to stop: what hangs is the database's affair
        assert asked.status("/metrics") == 200


@contextmanager
def _frozen(scene: Scene) -> Iterator[None]:
    pids = [
        pid
        for (pid,) in scene.query(
            "select pid from pg_stat_activity where application_name = 'outbox-relay'"
            " and datname = current_database()"
        )
    ]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_standby_is_alive_ready_and_well_and_leaves_the_backlog_to_the_other(
    scene: Scene,
) -> None:
    # Given two relays of one name on one machine, each on a port of its own
    first = scene.relay(*ANY_PORT)
    first.says(HOLDS)
    second = scene.relay(*ANY_PORT, "--stall-timeout", "1")
    second.says(STANDBY)
    working, standing_by = endpoints_of(first), endpoints_of(second)
    # Then the one on standby is well for longer than it may be still, and says what it is
    wait_until(
        lambda: (working.value("outbox_relay_processes") or 0) >= 1, what="a sample of the first"
    )
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert [standing_by.status(path) for path in PROBES] == [200, 200, 200]
    assert (standing_by.health["state"], standing_by.health["lag"]) == ("standby", None)
    assert standing_by.value("outbox_relay_leader") is None
    assert standing_by.value("outbox_messages_pending") is None
    # And when the first ends, it takes over and tells of the backlog
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    wait_until(lambda: standing_by.value("outbox_relay_leader") == 1, what="the take-over")
    wait_until(lambda: standing_by.value("outbox_messages_pending") is not None, what="its sample")


def test_readiness_ends_with_the_signal_and_not_with_the_process(scene: Scene) -> None:
    # Given a relay that cannot give its lane back, since somebody has locked the cursor
    relay = scene.relay(*ANY_PORT, "--lease", "60")
    asked = endpoints_of(relay)
    relay.says(HOLDS)
    with psycopg.connect(scene.url) as other:
        other.execute("select from outbox_cursor for update")
        # When it is told to stop, then it is not ready any more, but alive until its end
        relay.signal(signal.SIGTERM)
        asked.becomes("/readyz", 503)
        assert asked.status("/livez") == 200
        assert asked.health["state"] == "stopping"
    # And it ends once it can
    assert relay.wait() == 0


def test_a_client_that_says_nothing_does_not_hold_up_the_end(scene: Scene) -> None:
    relay = scene.relay(*ANY_PORT)
    asked = endpoints_of(relay)
    relay.says(HOLDS)
    with socket.create_connection(("127.0.0.1", asked.port)):
        relay.signal(signal.SIGTERM)
        assert relay.wait(timeout=5) == 0


def test_a_port_that_is_taken_is_a_mistake_in_the_configuration(scene: Scene) -> None:
    # Given a relay on a port
    port = str(free_port())
    first = scene.relay("--http-port", port)
    endpoints_of(first)
    # When a second one is given the same, then it says so and ends
    second = scene.commands("run", OUTBOX_HTTP_PORT=port)
    assert second.code == 78
    assert f"cannot listen on 127.0.0.1 port {port}" in second.err
    assert "Traceback" not in second.err


def test_without_a_port_nothing_listens(scene: Scene) -> None:
    relay = scene.holder()
    descriptors = Path(f"/proc/{relay.process.pid}/fd").iterdir()
    names = [str(descriptor.readlink()) for descriptor in descriptors]
    sockets = {name[8:-1] for name in names if name.startswith("socket:[")}
    assert sockets
    assert not sockets & _listening()


def _listening() -> set[str]:
    """Return the inodes of all sockets that listen (Linux)."""
    tables = [Path("/proc/net") / name for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()]
    return {row[9] for row in rows if row[3] == "0A"}


def test_healthcheck_asks_the_relay_of_the_same_settings(scene: Scene) -> None:
    port = str(free_port())
    # Given a relay that is ready
    relay = scene.relay(OUTBOX_HTTP_PORT=port)
    relay.says(HOLDS)
    # Then the command says so, by settings or by flags, and words come on stderr alone
    for question in ([], ["live"], ["ready"]):
        done = scene.commands("healthcheck", *question, OUTBOX_HTTP_PORT=port)
        assert (done.code, done.out, done.err) == (0, "", "")
    assert scene.commands("healthcheck", "--http-port", port).code == 0
    # And when it has ended, that it does not answer
    relay.signal(signal.SIGTERM)
    relay.wait()
    done = scene.commands("healthcheck", "ready", "--http-port", port)
    assert (done.code, done.out) == (6, "")
    assert f"not ready: no answer from 127.0.0.1 port {port}" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 78, "no port to ask"),
        (["--http-port", "0"], 78, "no port to ask"),
        (["--http-port", "http"], 78, "http_port (flag --http-port): 'http' is not a port"),
        (["alive", "--http-port", "1"], 2, "'alive' is not one of"),
    ],
)
def test_healthcheck_says_what_is_wrong_with_the_question(
    scene: Scene, arguments: list[str], code: int, words: str
) -> None:
    done = scene.commands("healthcheck", *arguments)
    assert (done.code, words in done.err) == (code, True), done.err


def test_messages_of_an_undeclared_lane_arrive_and_are_said_once(scene: Scene) -> None:
    # Given a relay, and messages that name a lane nobody declared
    relay = scene.relay(*ANY_PORT)
    asked = endpoints_of(relay)
    with psycopg.connect(scene.url, autocommit=True) as connection:
        connection.execute(
            "insert into outbox_message (topic, key, payload, lane)"
            " select %s, 'k0', '1', case when i > 3 then 'express' end"
            " from generate_series(1, 8) as i",
            (scene.topic,),
        )
    # Then they arrive
    scene.wait_until_delivered()
    assert len(scene.topic_now()) == 8
    # And a warning and a metric say that nobody declared it
    relay.says("messages name the lane 'express', which is not declared")
    wait_until(
        lambda: asked.value("outbox_undeclared_lane_messages_total", lane="express") == 5,
        what="the metric, which comes after the warning",
    )
    assert len([line for line in warnings(relay) if "not declared" in line]) == 1
    assert asked.value("outbox_undeclared_lane_messages_total", lane="default") is None
