"""Transactional outbox and inbox: from your database to Kafka, in order, nothing lost."""

from __future__ import annotations

__version__ = "0.1.0"
