"""What one call of the command brings with it."""

from __future__ import annotations

from dataclasses import dataclass

from outbox.config.host import NO_HOST, HostSettings


@dataclass
class Invocation:
    """Its surroundings, and how errors are to be shown."""

    debug: bool = False
    host: HostSettings = NO_HOST
