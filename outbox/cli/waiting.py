"""Wait for a database that is away, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from outbox.errors import DatabaseUnavailable
from outbox.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.config.settings import Settings
    from outbox.store.base import StoreAdmin

Result = TypeVar("Result")

_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 2.0


def patiently(action: Callable[[], Result], timeout_s: float) -> Result:
    """Return what `action` returns, trying again for `timeout_s` while the database is away."""
    deadline = time.monotonic() + timeout_s
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            return action()
        except DatabaseUnavailable as error:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise
            if wait_s == _FIRST_WAIT_S:
                click.echo(f"{error}; trying for {timeout_s:g} seconds", err=True)
        time.sleep(min(wait_s, left_s))
        wait_s = min(wait_s * 2, _LONGEST_WAIT_S)


@contextmanager
def connected_store(settings: Settings) -> Iterator[StoreAdmin]:
    """Yield a store that is connected, and close it."""
    store = open_store(
        settings.require_database(),
        settings.names,
        password_callback=settings.password_callback(),
    )
    try:
        patiently(store.connect, settings.connect_timeout)
        yield store
    finally:
        store.close()
