"""What happens to a test whose server cannot be had."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

Server = TypeVar("Server")


class ServerUnavailableError(Exception):
    """The machine does not offer this server; the sentence says what would."""


class ServerFailedError(Exception):
    """A server that the machine offers did not start or did not stop."""


def require(start: Callable[[], Server]) -> Server:
    """Start a server, or skip the test with the reason; with `CI=true` fail it instead."""
    try:
        return start()
    except ServerUnavailableError as absent:
        reason = str(absent)
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"{reason} (CI=true, so this is a failure)", pytrace=False)
    pytest.skip(reason)
