"""Wait for a database that is away, but not for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import click

from outbox.database import require_psycopg
from outbox.errors import DatabaseUnavailable
from outbox.store.opening import open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from outbox.config.settings import Settings
    from outbox.database import DatabaseUrl
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


def loaded_database(settings: Settings) -> DatabaseUrl:
    """Return the database's URL, with its driver loaded.

    For actions that would load it themselves: on a busy machine that alone outlasts a short
    timeout, and `patiently` would give up after one attempt. Raises ConfigurationError without a
    URL and MissingExtra without a driver.
    """
    url = settings.require_database()
    if url.dialect == "postgresql":
        require_psycopg()
    return url


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
