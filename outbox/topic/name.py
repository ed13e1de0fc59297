"""Names of topics, as Kafka takes them."""

from __future__ import annotations

import re
from functools import lru_cache

from outbox.errors import InvalidMessage
from outbox.text import check_text, shown

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")


def check_topic_name(name: object) -> str:
    """Return the name of a topic as a plain str, or raise InvalidMessage."""
    if not isinstance(name, str):
        raise InvalidMessage(f"topic must be str, not {type(name).__name__}")
    return _known(name)


@lru_cache(maxsize=1024)
def _known(name: str) -> str:
    if not name:
        raise InvalidMessage("topic is empty")
    if not _TOPIC.fullmatch(name) or name in (".", ".."):
        raise InvalidMessage(
            f"topic {shown(name)} is not a valid Kafka topic name: use 1 to 249 of the "
            "characters A-Z a-z 0-9 . _ - (and not . or .. alone)"
        )
    return check_text("topic", name)
