"""Messages as they go on the wire: by the schemas of a registry, as CloudEvents.

confluent-kafka's client of the registry is loaded when something is to be encoded, and not before.
"""

from __future__ import annotations

from outbox.config.topic_rules import TopicRule
from outbox.encoding.encodings import Encodings
from outbox.encoding.publisher import EncodingPublisher
from outbox.encoding.registry import RegistryUnavailable
from outbox.encoding.serializer import RegistrySerializer

__all__ = [
    "EncodingPublisher",
    "Encodings",
    "RegistrySerializer",
    "RegistryUnavailable",
    "TopicRule",
]
