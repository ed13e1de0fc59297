"""The consumer's side: each message takes effect once.

confluent-kafka is loaded when an InboxConsumer is made, and not before.
"""

from __future__ import annotations

from outbox.inbox.consumer import InboxConsumer
from outbox.inbox.handling import Outcome
from outbox.inbox.inbox import Inbox
from outbox.inbox.received import ReceivedMessage, cloudevents_id, from_kafka

__all__ = ["Inbox", "InboxConsumer", "Outcome", "ReceivedMessage", "cloudevents_id", "from_kafka"]
