"""Ports for servers."""

from __future__ import annotations

import random
import socket

# Below the range from which the kernel takes the ports of outgoing connections (32768 on Linux).
# A server that is down for a while would otherwise find its port taken: a client that keeps
# trying to reconnect can be given that very port, and then it is connected to itself.
LOWEST = 15_000
HIGHEST = 32_000


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nobody listens on right now."""
    while True:
        port = random.randint(LOWEST, HIGHEST)
        if _is_free(port):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
