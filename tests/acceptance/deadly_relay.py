"""`outbox-relay`, but some messages kill it: given as key:payload in DEADLY_MESSAGES.

`abort` kills it while it encodes them, as a broken library would; `late` some time after they were
handed to librdkafka, from a thread of its own, as the kernel does when memory runs out.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from outbox.cli.main import main
from outbox.publishers.kafka import KafkaPublisher
from outbox.publishers.transactional import TransactionalPublisher
from outbox.relay import caution

_LATER_S = 0.002


def _deadly(publish: Callable[..., None], messages: set[tuple[str, bytes]], how: str) -> Any:
    def publishes(self: Any, records: list[Any], *more: Any) -> None:
        meets = any((record[3], (record[4] or b"").strip()) in messages for record in records)
        if meets and how == "abort":
            os.abort()
        if meets:
            threading.Timer(_LATER_S, os.kill, (os.getpid(), signal.SIGKILL)).start()
        publish(self, records, *more)
        if meets:
            signal.pause()  # or it might have noted by then that they have arrived

    return publishes


def plant() -> None:
    """Let the publishers die of the messages that the environment names."""
    named = [each.split(":") for each in os.environ["DEADLY_MESSAGES"].split()]
    messages = {(key, payload.encode()) for key, payload in named}
    for kind in (KafkaPublisher, TransactionalPublisher):
        deadly = _deadly(kind.publish, messages, os.environ.get("DEADLY_HOW", "abort"))
        kind.publish = deadly  # type: ignore[method-assign]
    # The tests have no time for long rests; that they are worth it is shown by simulation.
    caution._REST_S = (0.05, 0.3)


if __name__ == "__main__":
    plant()
    main()
