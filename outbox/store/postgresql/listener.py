"""Wakes a relay when a writer says that there are messages."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

from outbox.database import DatabaseUrl
from outbox.errors import DatabaseUnavailable, OutboxError
from outbox.names import Names
from outbox.store.postgresql.channel import Channel

logger = logging.getLogger("outbox.relay")

#: Who waits looks this often whether to stop, in seconds.
_TICK_S = 0.25

#: A network that swallows everything is noticed after so long, in seconds.
_PING_S = 30.0

#: How long a notification of our own may take, in seconds. Where none comes a pooler is in between,
#: which may be told otherwise, so it is tried again after a while.
_ECHO_S = 5.0
_RETRY_S = 5.0
_RETRY_POOLER_S = 300.0


class Listener:
    """Listens in a thread of its own; implements Waker, and is a context manager.

    `poll_interval_s`: how long a relay that hears waits at most, as a notification can be lost.
    Who does not hear polls as if there were no listener. Nothing here raises.
    """

    def __init__(
        self,
        url: DatabaseUrl,
        names: Names,
        *,
        poll_interval_s: float,
        password_callback: Callable[[], str] | None = None,
        echo_s: float = _ECHO_S,
    ) -> None:
        self._url = url
        self._prefix = names.prefix
        self._poll_interval_s = poll_interval_s
        self._password_callback = password_callback
        self._echo_s = echo_s
        self._hears = False
        self._complaint: str | None = None
        self._rung = threading.Event()
        self._ended = threading.Event()
        # A daemon: a server that never answers must not keep the process.
        self._thread = threading.Thread(target=self._run, name="outbox-listener", daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(2 * _TICK_S)

    # In the relay's thread

    @property
    def hears(self) -> bool:
        """Return whether notifications arrive now."""
        return self._hears

    def patience_s(self, seconds: float) -> float:
        """Return the whole poll interval for who hears."""
        return self._poll_interval_s if self._hears else seconds

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait until a notification was heard, or might have been missed."""
        until = time.monotonic() + seconds
        while not stop.is_set():
            left = until - time.monotonic()
            if self._rung.wait(min(max(left, 0.0), _TICK_S)):
                self._rung.clear()  # before the log is read: what comes later rings again
                return True
            if left <= 0:
                return False
        return True

    # In a thread of its own

    def _run(self) -> None:
        while not self._ended.is_set():
            retry_s = _RETRY_S
            try:
                with closing(self._channel()) as channel:
                    if self._is_heard(channel):
                        self._listen(channel)
                    retry_s = _RETRY_POOLER_S
            except OutboxError as error:
                self._complain(str(error))
            except Exception as error:  # noqa: BLE001 - it may be anything, and must not end the thread
                self._complain(f"{type(error).__name__}: {error}")
            self._hears = False
            self._rung.set()  # a relay that waits for the whole interval must not go on doing so
            self._ended.wait(retry_s)

    def _channel(self) -> Channel:
        return Channel(self._url, self._prefix, "outbox-relay listener", self._password_callback)

    def _is_heard(self, channel: Channel) -> bool:
        """Listen, and find out with a notification from another connection whether that works."""
        channel.listen()
        echo = f"echo {secrets.token_hex(8)}"
        with closing(self._channel()) as other:
            other.say(echo)
        until = time.monotonic() + self._echo_s
        while time.monotonic() < until and not self._ended.is_set():
            if echo in channel.heard(_TICK_S):
                return True
        with suppress(DatabaseUnavailable):
            channel.leave()
        if not self._ended.is_set():
            self._complain(
                "LISTEN does not work on this connection, which goes through a pooler in "
                "transaction mode, it seems; give the relay the address of the server itself, or "
                "leave wake_up at poll"
            )
        return False

    def _listen(self, channel: Channel) -> None:
        """Ring for every notification until the end."""
        logger.info("notifications wake the relay", extra={"event": "relay.listens"})
        self._complaint = None
        self._hears = True
        self._rung.set()  # for what was written before
        pinged_at = time.monotonic()
        while not self._ended.is_set():
            if channel.heard(_TICK_S):
                self._rung.set()
            if time.monotonic() - pinged_at > _PING_S:
                channel.ping()
                pinged_at = time.monotonic()

    def _complain(self, reason: str) -> None:
        """Say once why the relay is not woken."""
        if self._complaint != reason:
            logger.warning(
                "notifications do not wake the relay, which polls meanwhile: %s",
                reason,
                extra={"event": "relay.deaf"},
            )
        self._complaint = reason
