"""manage.py outbox_doctor"""

from __future__ import annotations

from outbox.django.commands import PassingCommand


class Command(PassingCommand):
    """The command."""

    help = "Look for what is wrong, as `outbox-relay doctor` does."
    stands_for = "doctor"
