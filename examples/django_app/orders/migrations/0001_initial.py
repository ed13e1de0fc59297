# ruff: noqa: RUF012 - the attributes are as Django writes them
"""The shop's tables."""

import uuid

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("customer", models.CharField(max_length=40)),
                ("amount", models.DecimalField(decimal_places=2, max_digits=10)),
                ("currency", models.CharField(default="EUR", max_length=3)),
                (
                    "placed_at",
                    models.DateTimeField(db_index=True, default=django.utils.timezone.now),
                ),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("placed", "waiting for the invoice"),
                            ("invoiced", "invoice issued"),
                            ("refused", "invoice refused"),
                            ("cancelled", "cancelled"),
                        ],
                        default="placed",
                        max_length=10,
                    ),
                ),
                ("message_id", models.UUIDField(editable=False, null=True)),
                ("invoice_id", models.CharField(blank=True, max_length=64)),
                ("reason", models.CharField(blank=True, max_length=200)),
                ("answers", models.PositiveIntegerField(default=0)),
                ("answered_at", models.DateTimeField(null=True)),
            ],
            options={
                "ordering": ("-placed_at",),
            },
        ),
        migrations.CreateModel(
            name="Rush",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("started_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("killed_pid", models.PositiveIntegerField(null=True)),
                ("killed_at_order", models.PositiveIntegerField(null=True)),
                ("killed_midway", models.BooleanField(default=False)),
            ],
            options={
                "verbose_name_plural": "rushes",
            },
        ),
        migrations.CreateModel(
            name="OrderLine",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("sku", models.CharField(max_length=40)),
                ("title", models.CharField(max_length=80)),
                ("quantity", models.PositiveIntegerField()),
                ("price", models.DecimalField(decimal_places=2, max_digits=8)),
                (
                    "order",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="lines",
                        to="orders.order",
                    ),
                ),
            ],
            options={
                "ordering": ("id",),
            },
        ),
        migrations.AddField(
            model_name="order",
            name="rush",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="orders",
                to="orders.rush",
            ),
        ),
    ]
