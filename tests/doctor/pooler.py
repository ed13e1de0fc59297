"""What a pooler does to a connection, as far as a client can see: it invents the process id."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

FAKE_PID = 999_999


class Pooler:
    """Passes PostgreSQL's protocol through, unencrypted, but for the key of a session."""

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self._sockets:
            with suppress(OSError):  # it is closed already
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            self._sockets += [client, server]
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for target, ends in ((_pass, (client, server)), (_pass_messages, (server, client))):
                thread = threading.Thread(target=target, args=ends)
                self._threads.append(thread)
                thread.start()


def _pass(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


def _pass_messages(source: socket.socket, target: socket.socket) -> None:
    try:
        with source.makefile("rb") as stream:
            while header := stream.read(1):
                length = stream.read(4)
                body = stream.read(struct.unpack("!i", length)[0] - 4)
                if header == b"K":
                    body = struct.pack("!i", FAKE_PID) + body[4:]
                target.sendall(header + length + body)
    except OSError:
        return
