"""Who does something to messages, as the audit tells it."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING
from uuid import uuid4

from outbox.store.held import Action

if TYPE_CHECKING:
    from collections.abc import Mapping


def new_action(command: str, what: Mapping[str, object]) -> Action:
    """Return what this process is about to do; `what` says to which messages."""
    source = f"{socket.gethostname()} pid={os.getpid()}"
    return Action(str(uuid4()), _actor(), source, command, what)


def _actor() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        return f"uid {os.getuid()}"
