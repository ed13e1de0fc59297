"""A network that a test can spoil: a proxy before any TCP server."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Self

HOST = "127.0.0.1"
CHUNK = 16_384  # bytes

#: Smaller parcels are left alone: what Kafka checks begins behind the head of a request.
HEAD = 512


@dataclass
class _Weather:
    """What happens to bytes on their way; every pump looks at it before it sends."""

    delay_s: float = 0.0
    bytes_per_s: float | None = None
    corrupts: Literal["requests", "answers"] | None = None
    swallows: bool = False
    holds: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)


class Proxy:
    """Listens on `port` and passes bytes on to a server, until told otherwise.

    What it is told holds for connections that are open and for new ones, until `restore`. It knows
    no protocol; for one that does see `KafkaProxy`. Use it as a context manager.
    """

    def __init__(self, server_port: int, port: int = 0) -> None:
        self._server_port = server_port
        self._weather = _Weather()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self.port = port
        self._listen()

    # The weather

    def delay(self, seconds: float) -> None:
        """Let every parcel take so long, each way."""
        self._change(delay_s=seconds)

    def throttle(self, bytes_per_s: float) -> None:
        """Let no more than so much pass, each way of each connection."""
        self._change(bytes_per_s=bytes_per_s)

    def corrupt(self, what: Literal["requests", "answers"]) -> None:
        """Change a byte of every large parcel that goes to the server, or comes from it."""
        self._change(corrupts=what)

    def swallow(self) -> None:
        """Accept connections and take what is sent on any, and pass nothing on, ever.

        The system acknowledges the bytes, so nothing in TCP can tell.
        """
        self._change(swallows=True)

    def hold(self) -> None:
        """Stop passing on. What is sent meanwhile arrives after `restore`."""
        self._change(holds=True)

    def cut(self) -> None:
        """Break every connection there is; new ones are accepted."""
        with self._lock:
            broken, self._sockets = self._sockets, set()
        for each in broken:
            _close(each)
        self._change()

    def refuse(self) -> None:
        """Accept no connection any more; those there are go on."""
        if self._listener is not None:
            _close(self._listener)
            self._listener = None

    def restore(self) -> None:
        """Let everything pass as it is, from now on."""
        self._change(delay_s=0.0, bytes_per_s=None, corrupts=None, swallows=False, holds=False)
        if self._listener is None:
            self._listen()

    def _change(self, **weather: object) -> None:
        with self._weather.changed:
            for name, value in weather.items():
                setattr(self._weather, name, value)
            self._weather.changed.notify_all()

    # Its work

    def _listen(self) -> None:
        self._listener = socket.create_server((HOST, self.port))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads = [each for each in self._threads if each.is_alive()] + [thread]
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection((HOST, self._server_port))
        except OSError:
            _close(client)
            return
        with self._lock:
            self._sockets |= {client, server}
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._start(self._pump, client, server, "requests")
        self._start(self._pump, server, client, "answers")

    def _pump(self, source: socket.socket, target: socket.socket, what: str) -> None:
        with self._ending_both(source, target):
            while data := source.recv(CHUNK):
                data = self._suffer(source, data, what)
                if data:
                    target.sendall(data)

    def _suffer(self, source: socket.socket, data: bytes, what: str) -> bytes:
        """Return what is left of a parcel, when its time has come."""
        weather = self._weather
        with weather.changed:
            if weather.swallows:
                return b""
            # A pump that waits for `restore` must end with its connection all the same.
            weather.changed.wait_for(lambda: not weather.holds or source.fileno() < 0)
            wait_s = weather.delay_s
            if weather.bytes_per_s is not None:
                wait_s += len(data) / weather.bytes_per_s
        if wait_s:
            time.sleep(wait_s)  # the delay is what the test asked for
        return _corrupted(data) if weather.corrupts == what else data

    @contextlib.contextmanager
    def _ending_both(self, *sockets: socket.socket) -> Iterator[None]:
        """End both directions with one."""
        try:
            with contextlib.suppress(OSError):
                yield
        finally:
            with self._lock:
                self._sockets -= set(sockets)
            for each in sockets:
                _close(each)
            self._change()

    def close(self) -> None:
        """Stop listening, break every connection, and wait until all is over."""
        self.refuse()
        self._change(holds=False)
        self.cut()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _corrupted(data: bytes) -> bytes:
    if len(data) < HEAD:
        return data
    at = len(data) - 100
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads; closing alone does not
    each.close()
