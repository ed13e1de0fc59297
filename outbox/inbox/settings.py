"""The settings of the consumer's Kafka client: which are the user's and which are ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from outbox.errors import ConfigurationError
from outbox.topic.topic import Topic, topic_name

KafkaSettings = Mapping[str, object]

_COMMITTED_BY_US = (
    "an offset may be committed only after the database has committed what the message caused, "
    "else a crash in between would lose the message"
)
_OURS: dict[str, str] = {
    "enable.auto.commit": _COMMITTED_BY_US,
    "enable.auto.offset.store": _COMMITTED_BY_US,
    "on_commit": "the consumer watches its commits itself, to repeat those that fail",
}


def consumer_settings(given: KafkaSettings, *, group: str) -> dict[str, object]:
    """Return the librdkafka properties to use: the given ones, completed.

    Raises ConfigurationError for a property that is ours, and where no server is named.
    """
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"kafka must be a dict of librdkafka properties, not {type(given).__name__}"
        )
    _check_ours(given)
    if not (given.get("bootstrap.servers") or given.get("metadata.broker.list")):
        raise ConfigurationError(
            'kafka needs the property "bootstrap.servers", for instance '
            '{"bootstrap.servers": "localhost:9092"}'
        )
    defaults = {"group.id": group, "auto.offset.reset": "earliest"}
    fixed = {"enable.auto.commit": False, "enable.auto.offset.store": False}
    return {**defaults, **given, **fixed}


def checked_topics(topics: Sequence[str | Topic[Any]]) -> list[str]:
    """Return the topics to subscribe to, or raise ConfigurationError."""
    # A plain string is a sequence of strings too: its letters would be subscribed to.
    if isinstance(topics, str):
        raise ConfigurationError(f"topics must be a list: pass [{topics!r}], not {topics!r}")
    if isinstance(topics, Topic):
        raise ConfigurationError(f"topics must be a list: pass [{topics!r}]")
    names = [topic_name(topic) for topic in topics]
    if not names:
        raise ConfigurationError("topics is empty: name at least one topic")
    for name in names:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"topics contains {name!r}, which is not a topic's name")
    return names


def _check_ours(given: KafkaSettings) -> None:
    for name, reason in _OURS.items():
        if str(given.get(name, False)).lower() != "false":
            raise ConfigurationError(f"the Kafka property {name!r} cannot be set: {reason}")
