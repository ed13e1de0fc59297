"""A small HTTP server in threads of its own, for probes and scrapes."""

from __future__ import annotations

import logging
import math
import socket
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from outbox.errors import ConfigurationError
from outbox.http.endpoints import Endpoint, Response, refusal

logger = logging.getLogger("outbox.http")

#: Whoever has not finished by then, in seconds, is cut off, however lively it dribbles.
MOST_SECONDS = 5.0

#: Probes and scrapes are a few at a time. Beyond this the oldest is cut off for the newest, so
#: that clients which say nothing cannot keep a probe out.
MOST_CONNECTIONS = 32


class HttpServer:
    """Serves endpoints from construction until `close`; a context manager.

    Raises ConfigurationError if it cannot listen there. `port` 0 takes any free one; the attribute
    `port` says which.
    """

    def __init__(self, host: str, port: int, endpoints: Mapping[str, Endpoint]) -> None:
        self._server = _listen(host, port, endpoints)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="outbox-http", daemon=True
        )
        self._thread.start()
        logger.info(
            "health and metrics at http://%s:%d",
            f"[{host}]" if ":" in host else host,
            self.port,
            extra={"event": "http.listening"},
        )

    def close(self) -> None:
        """Stop at once; requests that are under way are cut off."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listen(host: str, port: int, endpoints: Mapping[str, Endpoint]) -> _Server:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _Server(family, address, endpoints)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigurationError(
            f"cannot listen on {host} port {port} for health and metrics: {reason.lower()}. Give "
            "another --http-port (0 takes any free one) or --http-host, or none to go without"
        ) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True  # nor waited for at the end: a client that says nothing would hold it up
    allow_reuse_port = False  # two relays on one port would answer for each other by turns
    request_queue_size = 64

    def __init__(
        self, family: socket.AddressFamily, address: Any, endpoints: Mapping[str, Endpoint]
    ) -> None:
        self.address_family = family
        self.endpoints = endpoints
        self._open: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer would look up the address's name, which can take as long as DNS likes.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MOST_CONNECTIONS:
                oldest = min(self._open, key=self._open.__getitem__)
                _cut_off(oldest)
                # Not the oldest any more: its thread may take a while to notice.
                self._open[oldest] = math.inf
            self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off who takes too long. A timeout of the socket would begin anew with every byte."""
        late = time.monotonic() - MOST_SECONDS
        with self._lock:
            for request, since in self._open.items():
                if since < late:
                    _cut_off(request)

    def server_close(self) -> None:
        super().server_close()
        with self._lock:
            for request in self._open:
                _cut_off(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the library's signature
        """Say what went wrong, unless the client just went."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            logger.error("a request failed", exc_info=error, extra={"event": "http.failed"})


def _cut_off(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is gone already


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = MOST_SECONDS

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        endpoint = self.server.endpoints.get(path)
        if endpoint is None:
            known = ", ".join(self.server.endpoints)
            self._answer(refusal(404, f"nothing is at this path; there are {known}"))
        else:
            self._answer(endpoint(self.headers.get("Accept", "")))

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def _refuse(self) -> None:
        self._answer(refusal(405, "only GET and HEAD are answered"), allow="GET, HEAD")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815 - as above

    def _answer(self, response: Response, *, allow: str | None = None) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Cache-Control", "no-store")
        if allow is not None:
            self.send_header("Allow", allow)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def version_string(self) -> str:
        """Return what the header Server says: not which Python this is."""
        return "outbox-relay"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep probes out of the log."""
        logger.debug(format, *arguments, extra={"event": "http.request"})
