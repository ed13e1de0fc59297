"""The Django application."""

from __future__ import annotations

from django.apps import AppConfig

#: Not `outbox`: many projects have an application of that name.
LABEL = "outbox_relay"


class OutboxRelayConfig(AppConfig):
    """outbox-relay, as INSTALLED_APPS knows it."""

    name = "outbox.django"
    label = LABEL
    verbose_name = "Outbox"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks, and what is to be forgotten when the settings change."""
        from outbox.django import checks, flushing, settings

        settings.follow_changes()
        checks.register()
        flushing.register()
