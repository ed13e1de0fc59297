"""The proxy that spoils a network does what it is told."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from tests.servers.proxy import HEAD, HOST, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT_S = 0.2
LARGE = bytes(2 * HEAD)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Give a proxy before a server that repeats what it hears."""
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        with Proxy(listener.getsockname()[1]) as made:
            yield made
        listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    with suppress(OSError):  # closed
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_repeat, args=(client,), daemon=True).start()


def _repeat(client: socket.socket) -> None:
    with closing(client), suppress(OSError):
        while data := client.recv(65_536):
            client.sendall(data)


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection((HOST, proxy.port), timeout=10)


def said(connection: socket.socket, data: bytes) -> bytes:
    """Return what comes back; nothing where the connection is over."""
    connection.sendall(data)
    return received(connection, len(data))


def received(connection: socket.socket, length: int) -> bytes:
    data = b""
    with suppress(ConnectionResetError):
        while len(data) < length and (part := connection.recv(length - len(data))):
            data += part
    return data


def silent(connection: socket.socket) -> bool:
    connection.settimeout(SHORT_S)
    try:
        return not connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)


def test_it_passes_on_what_it_gets(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert said(connection, b"one") == b"one"
        assert said(connection, LARGE) == LARGE


def test_what_is_held_arrives_afterwards_and_what_is_swallowed_never(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        proxy.hold()
        connection.sendall(b"held")
        assert silent(connection)
        proxy.restore()
        assert received(connection, 4) == b"held"
        proxy.swallow()
        connection.sendall(b"gone")
        assert silent(connection)
        proxy.restore()
        assert said(connection, b"next") == b"next"


def test_connections_are_cut_and_refused(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert said(connection, b"first") == b"first"  # so it was accepted
        proxy.refuse()
        assert said(connection, b"still") == b"still"
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        proxy.cut()
        with suppress(ConnectionError):
            assert said(connection, b"lost") == b""
    proxy.restore()
    with connected(proxy) as connection:
        assert said(connection, b"again") == b"again"


def test_large_parcels_are_changed_one_way(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        proxy.corrupt("requests")
        once = said(connection, LARGE)
        assert sum(a != b for a, b in zip(once, LARGE, strict=True)) >= 1
        proxy.corrupt("answers")
        assert said(connection, LARGE) != LARGE
        assert said(connection, b"short") == b"short"


@pytest.mark.parametrize("spoil", ["delay", "throttle"])
def test_bytes_take_their_time(proxy: Proxy, spoil: str) -> None:
    proxy.delay(SHORT_S) if spoil == "delay" else proxy.throttle(len(LARGE) / SHORT_S)
    with connected(proxy) as connection:
        began = time.monotonic()
        assert said(connection, LARGE) == LARGE
        assert time.monotonic() - began >= 2 * SHORT_S  # there and back
