"""The tables as models, for the admin and for queries. They are read-only.

Messages are written by `outbox.django.add`, cursors by the relay, the inbox by its consumer. The
columns that are left out are the log's own business.
"""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, TypeVar

from django.db import models

from outbox.django.apps import LABEL
from outbox.django.fields import MessageIdField, MomentField
from outbox.django.settings import table_name
from outbox.errors import OutboxError

# Any: Django's own signatures.

Row = TypeVar("Row", bound=models.Model)


class ReadOnlyQuerySet(models.QuerySet[Row]):
    """A query set that refuses to change anything."""

    def bulk_create(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        _refuse(self.model)

    def bulk_update(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        _refuse(self.model)

    def update(self, **_: Any) -> NoReturn:
        """Refuse."""
        _refuse(self.model)

    def delete(self) -> NoReturn:
        """Refuse."""
        _refuse(self.model)

    # Without these, Django's templates and admin could call them.
    update.alters_data = True  # type: ignore[attr-defined]  # Django's way to mark a method
    delete.alters_data = True  # type: ignore[attr-defined]  # as above


class ReadOnlyModel(models.Model):
    """A row that the ORM reads and never writes."""

    objects: ClassVar[models.Manager[Any]] = ReadOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        _refuse(type(self))

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse."""
        _refuse(type(self))


class OutboxMessage(ReadOnlyModel):
    """A message in the log. That it is here does not say whether it was delivered: see cursors."""

    seq: models.BigIntegerField[int, int] = models.BigIntegerField("position", primary_key=True)
    created_at = MomentField("written at")
    message_id = MessageIdField("id", db_column="id")
    topic: models.TextField[str, str] = models.TextField()
    key: models.TextField[str | None, str | None] = models.TextField(null=True)
    type: models.TextField[str | None, str | None] = models.TextField(null=True)
    content_type: models.TextField[str | None, str | None] = models.TextField(null=True)
    payload: models.BinaryField[bytes | None, bytes | None] = models.BinaryField(null=True)
    headers = models.JSONField(null=True)
    traceparent: models.TextField[str | None, str | None] = models.TextField(null=True)
    tracestate: models.TextField[str | None, str | None] = models.TextField(null=True)
    lane: models.TextField[str | None, str | None] = models.TextField(null=True)

    class Meta:
        managed = False
        app_label = LABEL
        db_table = table_name("outbox_message")
        default_permissions = ("view",)
        permissions: ClassVar = [("view_payload", "Can see the payloads of messages")]
        ordering: ClassVar = ["-seq"]
        verbose_name = "message"

    def __str__(self) -> str:
        return f"{self.topic} {self.message_id}"


class OutboxScheduled(ReadOnlyModel):
    """A message that waits for a time, or for a condition; a relay moves it into the log."""

    no: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    due_at = MomentField("due at", null=True)
    wait_for: models.TextField[str | None, str | None] = models.TextField("waits for", null=True)
    created_at = MomentField("written at")
    message_id = MessageIdField("id", db_column="id")
    topic: models.TextField[str, str] = models.TextField()
    key: models.TextField[str | None, str | None] = models.TextField(null=True)
    type: models.TextField[str | None, str | None] = models.TextField(null=True)
    content_type: models.TextField[str | None, str | None] = models.TextField(null=True)
    payload: models.BinaryField[bytes | None, bytes | None] = models.BinaryField(null=True)
    headers = models.JSONField(null=True)
    lane: models.TextField[str | None, str | None] = models.TextField(null=True)

    class Meta:
        managed = False
        app_label = LABEL
        db_table = table_name("outbox_scheduled")
        default_permissions = ("view",)
        ordering: ClassVar = ["no"]
        verbose_name = "scheduled message"

    def __str__(self) -> str:
        return f"{self.topic} {self.message_id}"


class OutboxCursor(ReadOnlyModel):
    """How far a relay name has come on a lane, and which process holds the lane."""

    # The key of the table is (relay, lane). The admin takes no composite keys, and nothing here
    # looks a cursor up by its key.
    relay: models.TextField[str, str] = models.TextField(primary_key=True)
    lane: models.TextField[str, str] = models.TextField()
    owner: models.TextField[str | None, str | None] = models.TextField("held by", null=True)
    lease_until = MomentField(null=True)
    cluster_id: models.TextField[str | None, str | None] = models.TextField(
        "Kafka cluster", null=True
    )
    moved_at = MomentField("moved at")

    class Meta:
        managed = False
        app_label = LABEL
        db_table = table_name("outbox_cursor")
        default_permissions = ("view",)
        ordering: ClassVar = ["relay", "lane"]
        verbose_name = "cursor"

    def __str__(self) -> str:
        return f"{self.relay} ({self.lane})"


class OutboxHeld(ReadOnlyModel):
    """A message that a relay name cannot send now: what is done about it, and why."""

    pk = models.CompositePrimaryKey("relay", "seq")
    relay: models.TextField[str, str] = models.TextField()
    lane: models.TextField[str, str] = models.TextField()
    seq: models.BigIntegerField[int, int] = models.BigIntegerField("position")
    created_at = MomentField("written at")
    message_id = MessageIdField("id", db_column="id")
    topic: models.TextField[str, str] = models.TextField()
    key: models.TextField[str | None, str | None] = models.TextField(null=True)
    type: models.TextField[str | None, str | None] = models.TextField(null=True)
    content_type: models.TextField[str | None, str | None] = models.TextField(null=True)
    payload: models.BinaryField[bytes | None, bytes | None] = models.BinaryField(null=True)
    headers = models.JSONField(null=True)
    traceparent: models.TextField[str | None, str | None] = models.TextField(null=True)
    tracestate: models.TextField[str | None, str | None] = models.TextField(null=True)
    state: models.TextField[str, str] = models.TextField()
    attempts: models.IntegerField[int, int] = models.IntegerField()
    next_attempt_at = MomentField("next attempt", null=True)
    fault: models.TextField[str | None, str | None] = models.TextField(null=True)
    error: models.TextField[str | None, str | None] = models.TextField(null=True)
    held_at = MomentField("held since")
    changed_at = MomentField("changed at")

    class Meta:
        managed = False
        app_label = LABEL
        db_table = table_name("outbox_held")
        default_permissions = ("view",)
        ordering: ClassVar = ["relay", "seq"]
        verbose_name = "held message"

    def __str__(self) -> str:
        return f"{self.topic} {self.message_id} ({self.state})"


class OutboxPause(ReadOnlyModel):
    """What an operator has paused; null stands for every relay name, lane or topic."""

    id: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    relay: models.TextField[str | None, str | None] = models.TextField(null=True)
    lane: models.TextField[str | None, str | None] = models.TextField(null=True)
    topic: models.TextField[str | None, str | None] = models.TextField(null=True)
    at = MomentField("paused at")
    actor: models.TextField[str, str] = models.TextField()
    reason: models.TextField[str | None, str | None] = models.TextField(null=True)

    class Meta:
        managed = False
        app_label = LABEL
        db_table = table_name("outbox_pause")
        default_permissions = ("view",)
        ordering: ClassVar = ["id"]
        verbose_name = "pause"

    def __str__(self) -> str:
        what = [
            f"{name} {value}"
            for name in ("relay", "lane", "topic")
            if (value := getattr(self, name)) is not None
        ]
        return ", ".join(what) or "everything"


class OutboxAudit(ReadOnlyModel):
    """What an operator did, when, and to how many messages."""

    id: models.BigIntegerField[int, int] = models.BigIntegerField(primary_key=True)
    at = MomentField()
    action = MessageIdField()
    actor: models.TextField[str, str] = models.TextField()
    source: models.TextField[str, str] = models.TextField()
    command: models.TextField[str, str] = models.TextField()
    what = models.JSONField()
    messages: models.BigIntegerField[int, int] = models.BigIntegerField()

    class Meta:
        managed = False
        app_label = LABEL
        db_table = table_name("outbox_audit")
        default_permissions = ("view",)
        ordering: ClassVar = ["-id"]
        verbose_name = "operator's action"

    def __str__(self) -> str:
        return f"{self.command} by {self.actor}"


class InboxMessage(ReadOnlyModel):
    """A message that has taken effect for a consumer."""

    pk = models.CompositePrimaryKey("consumer", "message_id")
    consumer: models.TextField[str, str] = models.TextField()
    message_id: models.TextField[str, str] = models.TextField()
    received_at = MomentField()

    class Meta:
        managed = False
        app_label = LABEL
        db_table = table_name("inbox_message")
        default_permissions = ("view",)
        verbose_name = "inbox message"

    def __str__(self) -> str:
        return f"{self.consumer} {self.message_id}"


def _refuse(model: type[models.Model]) -> NoReturn:
    raise OutboxError(
        f"{model.__name__} is read-only: messages are written with outbox.django.add(), and the "
        "rest by the relay and the inbox; nothing was changed"
    )
