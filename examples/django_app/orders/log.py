"""What the shop's own database knows of a message: where it is in the log, and how far the relay.

A page that shows a message's way needs this; an application that only sends messages does not.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime

from django.db import connection
from django.utils import timezone

from outbox.django.models import OutboxCursor, OutboxMessage

RELAY = "default"

# SQLite has one writer at a time, so the cursor is a number. On PostgreSQL transactions overlap:
# the cursor is a plan between two snapshots, and how far within it.
_PASSED = {
    "sqlite": """
        select c.after_seq >= m.seq
          from outbox_message as m, outbox_cursor as c
         where m.seq = %s and c.relay = %s and c.lane = 'default'""",
    "postgresql": """
        select pg_visible_in_snapshot(m.xid, p.last)
               or pg_visible_in_snapshot(m.xid, p.target) and m.seq <= c.after_seq
          from outbox_message as m, outbox_cursor as c
          join outbox_plan as p using (relay, lane, plan_no)
         where m.seq = %s and c.relay = %s and c.lane = 'default'""",
}


@dataclass(frozen=True)
class LogEntry:
    """A message in the log; `seq` is its place. `served`: whether a relay process holds the lane.

    `published`: the relay has noted that Kafka confirmed it.
    """

    seq: int
    written_at: datetime
    topic: str
    key: str
    type: str
    payload: str
    traceparent: str | None
    published: bool
    served: bool

    @property
    def trace_id(self) -> str:
        """The trace it was written in; empty where nothing traces."""
        return self.traceparent.split("-")[1] if self.traceparent else ""


def find(message_id: uuid.UUID | None) -> LogEntry | None:
    """Return what is known of a message; None if the log does not hold it (any more)."""
    # By id there is no index, since nothing but pages like this one looks for one.
    message = OutboxMessage.objects.filter(message_id=message_id).first()
    if message is None:
        return None
    return LogEntry(
        seq=message.seq,
        written_at=message.created_at,
        topic=message.topic,
        key=message.key,
        type=message.type,
        payload=bytes(message.payload).decode(),
        traceparent=message.traceparent,
        published=_passed(message.seq),
        served=_served(),
    )


def _passed(seq: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(_PASSED[connection.vendor], [seq, RELAY])
        row = cursor.fetchone()
    return bool(row and row[0])


def _served() -> bool:
    held = OutboxCursor.objects.filter(relay=RELAY, owner__isnull=False)
    return held.filter(lease_until__gt=timezone.now()).exists()
