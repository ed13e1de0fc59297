"""A proxy before one broker that knows where Kafka's requests and responses begin and end."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

HOST = "127.0.0.1"
PRODUCE = 0  # the number of the request in Kafka's protocol


@dataclass(frozen=True)
class Frame:
    """A request, or the response to one. `api` is the request's number in Kafka's protocol."""

    api: int
    data: bytes
    forward: Callable[[], None] = field(repr=False)
    """Send it on, now or later: whoever holds frames must keep their order."""


#: Is given every frame in place of the proxy, and must forward it at some time.
Decide = Callable[[Frame], None]


class KafkaProxy:
    """Listens where a broker's second listener is advertised and passes frames on.

    `on_request` and `on_response` are called in threads of the proxy, one for each direction of
    each connection; while one of them waits, nothing else passes in that direction. Use it as a
    context manager.
    """

    def __init__(self, port: int, broker_port: int) -> None:
        self.on_request: Decide = _forward
        self.on_response: Decide = _forward
        self._broker_port = broker_port
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server((HOST, port))
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection there is; new ones are accepted."""
        with self._lock:
            broken, self._sockets = self._sockets, []
        for each in broken:
            _close(each)

    def close(self) -> None:
        """Stop listening and break every connection."""
        _close(self._listener)
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            broker = socket.create_connection((HOST, self._broker_port))
        except OSError:
            _close(client)
            return
        with self._lock:
            self._sockets += client, broker
        asked = _Asked()
        for pump, source, target in (
            (self._pump_requests, client, broker),
            (self._pump_responses, broker, client),
        ):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=pump, args=(source, target, asked), daemon=True).start()

    def _pump_requests(self, client: socket.socket, broker: socket.socket, asked: _Asked) -> None:
        with _ending_both(client, broker):
            while data := _read_frame(client):
                api, _, correlation = struct.unpack_from(">hhi", data, 4)
                asked.apis[correlation] = api
                self.on_request(Frame(api, data, _sender(broker, data)))

    def _pump_responses(self, broker: socket.socket, client: socket.socket, asked: _Asked) -> None:
        with _ending_both(client, broker):
            while data := _read_frame(broker):
                (correlation,) = struct.unpack_from(">i", data, 4)
                api = asked.apis.pop(correlation)
                self.on_response(Frame(api, data, _sender(client, data)))


@dataclass
class _Asked:
    """What one connection was asked and has not answered, by correlation id."""

    apis: dict[int, int] = field(default_factory=dict)


def _forward(frame: Frame) -> None:
    frame.forward()


def _sender(target: socket.socket, data: bytes) -> Callable[[], None]:
    def send() -> None:
        with contextlib.suppress(OSError):  # the connection is gone, and the pumps end with it
            target.sendall(data)

    return send


def _read_frame(source: socket.socket) -> bytes:
    """Return a frame with its length in front, nothing at the end of the connection."""
    head = _read(source, 4)
    if not head:
        return b""
    (length,) = struct.unpack(">i", head)
    body = _read(source, length)
    return head + body if body else b""


def _read(source: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = source.recv(length - len(data))
        if not part:
            return b""
        data += part
    return data


@contextlib.contextmanager
def _ending_both(*sockets: socket.socket) -> Iterator[None]:
    """End both directions with one."""
    try:
        with contextlib.suppress(OSError):
            yield
    finally:
        for each in sockets:
            _close(each)


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads; closing alone does not
    each.close()
