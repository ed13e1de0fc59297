"""Typed topics: a topic's name together with what it carries."""

from __future__ import annotations

from outbox.topic.name import check_topic_name
from outbox.topic.topic import Topic, topic_name

__all__ = ["Topic", "check_topic_name", "topic_name"]
