"""The tables of version 1, and the models that read them."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models

from outbox.django.fields import MessageIdField, MomentField
from outbox.django.operations import ApplySteps
from outbox.django.settings import table_name


class Migration(migrations.Migration):
    """Make the tables."""

    initial = True
    dependencies: ClassVar = []
    operations: ClassVar = [
        ApplySteps(1),
        migrations.CreateModel(
            name="OutboxMessage",
            fields=[
                (
                    "seq",
                    models.BigIntegerField(
                        primary_key=True, serialize=False, verbose_name="position"
                    ),
                ),
                ("created_at", MomentField(verbose_name="written at")),
                ("message_id", MessageIdField(db_column="id", verbose_name="id")),
                ("topic", models.TextField()),
                ("key", models.TextField(null=True)),
                ("type", models.TextField(null=True)),
                ("content_type", models.TextField(null=True)),
                ("payload", models.BinaryField(null=True)),
                ("headers", models.JSONField(null=True)),
                ("traceparent", models.TextField(null=True)),
                ("tracestate", models.TextField(null=True)),
                ("lane", models.TextField(null=True)),
            ],
            options={
                "verbose_name": "message",
                "db_table": table_name("outbox_message"),
                "ordering": ["-seq"],
                "permissions": [("view_payload", "Can see the payloads of messages")],
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OutboxScheduled",
            fields=[
                ("no", models.BigIntegerField(primary_key=True, serialize=False)),
                ("due_at", MomentField(null=True, verbose_name="due at")),
                ("wait_for", models.TextField(null=True, verbose_name="waits for")),
                ("created_at", MomentField(verbose_name="written at")),
                ("message_id", MessageIdField(db_column="id", verbose_name="id")),
                ("topic", models.TextField()),
                ("key", models.TextField(null=True)),
                ("type", models.TextField(null=True)),
                ("content_type", models.TextField(null=True)),
                ("payload", models.BinaryField(null=True)),
                ("headers", models.JSONField(null=True)),
                ("lane", models.TextField(null=True)),
            ],
            options={
                "verbose_name": "scheduled message",
                "db_table": table_name("outbox_scheduled"),
                "ordering": ["no"],
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OutboxCursor",
            fields=[
                ("relay", models.TextField(primary_key=True, serialize=False)),
                ("lane", models.TextField()),
                ("owner", models.TextField(null=True, verbose_name="held by")),
                ("lease_until", MomentField(null=True)),
                ("cluster_id", models.TextField(null=True, verbose_name="Kafka cluster")),
                ("moved_at", MomentField(verbose_name="moved at")),
            ],
            options={
                "verbose_name": "cursor",
                "db_table": table_name("outbox_cursor"),
                "ordering": ["relay", "lane"],
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OutboxHeld",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "relay",
                        "seq",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("relay", models.TextField()),
                ("lane", models.TextField()),
                ("seq", models.BigIntegerField(verbose_name="position")),
                ("created_at", MomentField(verbose_name="written at")),
                ("message_id", MessageIdField(db_column="id", verbose_name="id")),
                ("topic", models.TextField()),
                ("key", models.TextField(null=True)),
                ("type", models.TextField(null=True)),
                ("content_type", models.TextField(null=True)),
                ("payload", models.BinaryField(null=True)),
                ("headers", models.JSONField(null=True)),
                ("traceparent", models.TextField(null=True)),
                ("tracestate", models.TextField(null=True)),
                ("state", models.TextField()),
                ("attempts", models.IntegerField()),
                ("next_attempt_at", MomentField(null=True, verbose_name="next attempt")),
                ("fault", models.TextField(null=True)),
                ("error", models.TextField(null=True)),
                ("held_at", MomentField(verbose_name="held since")),
                ("changed_at", MomentField(verbose_name="changed at")),
            ],
            options={
                "verbose_name": "held message",
                "db_table": table_name("outbox_held"),
                "ordering": ["relay", "seq"],
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OutboxPause",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("relay", models.TextField(null=True)),
                ("lane", models.TextField(null=True)),
                ("topic", models.TextField(null=True)),
                ("at", MomentField(verbose_name="paused at")),
                ("actor", models.TextField()),
                ("reason", models.TextField(null=True)),
            ],
            options={
                "verbose_name": "pause",
                "db_table": table_name("outbox_pause"),
                "ordering": ["id"],
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="OutboxAudit",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("at", MomentField()),
                ("action", MessageIdField()),
                ("actor", models.TextField()),
                ("source", models.TextField()),
                ("command", models.TextField()),
                ("what", models.JSONField()),
                ("messages", models.BigIntegerField()),
            ],
            options={
                "verbose_name": "operator's action",
                "db_table": table_name("outbox_audit"),
                "ordering": ["-id"],
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="InboxMessage",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "consumer",
                        "message_id",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("consumer", models.TextField()),
                ("message_id", models.TextField()),
                ("received_at", MomentField()),
            ],
            options={
                "verbose_name": "inbox message",
                "db_table": table_name("inbox_message"),
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
