"""manage.py outbox_relay"""

from __future__ import annotations

from outbox.django.commands import PassingCommand


class Command(PassingCommand):
    """The command."""

    help = "Move messages from the log to Kafka, as `outbox-relay run` does."
    stands_for = "run"
