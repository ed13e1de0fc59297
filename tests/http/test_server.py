"""The server answers what it should, and nobody who is slow, rude or silent keeps others out."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from outbox.errors import ConfigurationError
from outbox.http import server as module
from outbox.http.endpoints import Response, endpoints
from outbox.http.health import Health
from outbox.http.probe import probe
from outbox.http.server import HttpServer
from outbox.metrics.monitor import RelayMonitor
from outbox.metrics.prometheus import Exposition
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[HttpServer]:
    monitor = RelayMonitor("default")
    answers = endpoints(Health(monitor, lambda: False), Exposition(monitor.figures))
    with HttpServer("127.0.0.1", 0, answers) as made:
        yield made


def ask(server: HttpServer, method: str, path: str, **headers: str) -> http.client.HTTPResponse:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        response.data = response.read()  # type: ignore[attr-defined]  # read before it is closed
        return response


def test_every_path_answers_and_says_in_what_form(server: HttpServer) -> None:
    assert ask(server, "GET", "/livez").status == 200
    assert ask(server, "GET", "/livez?verbose=1").status == 200
    assert ask(server, "GET", "/readyz").status == 503
    assert ask(server, "GET", "/healthz").getheader("Content-Type") == "application/json"
    metrics = ask(server, "GET", "/metrics")
    assert (metrics.status, metrics.getheader("Content-Type", "").split(";")[0]) == (
        200,
        "text/plain",
    )
    assert metrics.getheader("Server") == "outbox-relay"


def test_prometheus_may_ask_for_openmetrics(server: HttpServer) -> None:
    metrics = ask(server, "GET", "/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert "application/openmetrics-text" in metrics.getheader("Content-Type", "")
    assert metrics.data.endswith(b"# EOF\n")  # type: ignore[attr-defined]  # set by `ask`


def test_head_is_get_without_the_body(server: HttpServer) -> None:
    got, head = ask(server, "GET", "/livez"), ask(server, "HEAD", "/livez")
    assert (head.status, head.data) == (200, b"")  # type: ignore[attr-defined]  # set by `ask`
    assert head.getheader("Content-Length") == got.getheader("Content-Length")


def test_an_unknown_path_is_told_the_known_ones(server: HttpServer) -> None:
    for path in ("/", "/livez/", "/../etc/passwd", "/%00"):
        response = ask(server, "GET", path)
        assert response.status == 404
        assert "/livez, /readyz, /healthz, /metrics" in json.loads(response.data)["reason"]  # type: ignore[attr-defined]  # set by `ask`


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: HttpServer, method: str) -> None:
    response = ask(server, method, "/livez")
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")


def test_nonsense_is_no_request(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b"400" in client.recv(4096)
    assert ask(server, "GET", "/livez").status == 200


def test_clients_that_say_nothing_keep_nobody_out(server: HttpServer) -> None:
    # Given more silent clients than may be connected at a time
    with ExitStack() as clients:
        for _ in range(module.MOST_CONNECTIONS + 10):
            clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        # Then a probe is answered at once
        began = time.monotonic()
        assert ask(server, "GET", "/livez").status == 200
        assert time.monotonic() - began < module.MOST_SECONDS / 2
        # And they do not cost a thread each
        wait_until(
            lambda: len(server._server._open) <= module.MOST_CONNECTIONS,
            what="the end of those who were cut off",
            timeout=module.MOST_SECONDS / 2,
        )


def test_a_client_that_dribbles_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, server: HttpServer
) -> None:
    """A timeout of the socket alone would begin anew with every byte."""
    monkeypatch.setattr(module, "MOST_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.02) as client:

        def is_cut_off() -> bool:
            try:
                client.sendall(b"G")
                return client.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_until(is_cut_off, what="the end of the connection", timeout=5)


def test_it_stops_at_once_whoever_is_connected(server: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        wait_until(lambda: server._server._open, what="the client to be seen")
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < 1
        assert client.recv(1) == b""
    server.close = lambda: None  # type: ignore[method-assign]  # it is closed already


def test_an_endpoint_that_fails_ends_neither_the_server_nor_goes_unsaid(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: str) -> Response:
        raise LookupError("broken")

    answers = {"/broken": fail, "/fine": lambda _: Response(200, "text/plain", b"")}
    with HttpServer("127.0.0.1", 0, answers) as server:
        with pytest.raises(http.client.RemoteDisconnected):
            ask(server, "GET", "/broken")
        assert ask(server, "GET", "/fine").status == 200
    assert "broken" in caplog.text


def test_a_port_that_is_taken_is_said_with_what_to_do(server: HttpServer) -> None:
    with pytest.raises(ConfigurationError) as refused:
        HttpServer("127.0.0.1", server.port, {})
    assert str(refused.value) == (
        f"cannot listen on 127.0.0.1 port {server.port} for health and metrics: address already in "
        "use. Give another --http-port (0 takes any free one) or --http-host, or none to go without"
    )
    assert refused.value.exit_code == 78


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot listen on {host} port"):
        HttpServer(host, 0, {})


def test_it_listens_on_ipv6_too() -> None:
    answers = {"/livez": lambda _: Response(200, "text/plain", b"")}
    with HttpServer("::1", 0, answers) as server:
        assert probe("::1", server.port, "live", 3.0).ok
    with HttpServer("0.0.0.0", 0, answers) as server:
        assert probe("0.0.0.0", server.port, "live", 3.0).ok


def test_the_probe_says_what_it_was_answered(server: HttpServer) -> None:
    assert probe("127.0.0.1", server.port, "live", 3.0).ok
    not_ready = probe("127.0.0.1", server.port, "ready", 3.0)
    assert (not_ready.ok, "not been reached yet" in (not_ready.reason or "")) == (False, True)


def test_a_probe_of_something_else_or_of_nobody_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        silent = probe("127.0.0.1", port, "live", 0.1)
        assert (silent.ok, "timed out" in (silent.reason or "")) == (False, True)
        answering = threading.Thread(target=_answer_nonsense, args=(other,))
        answering.start()
        assert not probe("127.0.0.1", port, "live", 3.0).ok
        answering.join()
    assert not probe("127.0.0.1", port, "live", 3.0).ok


def _answer_nonsense(listening: socket.socket) -> None:
    for _ in range(2):  # the first is the one that gave up
        client, _ = listening.accept()
        with client:
            client.sendall(b"SSH-2.0-OpenSSH\r\n")
