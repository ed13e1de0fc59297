"""manage.py outbox_status"""

from __future__ import annotations

from outbox.django.commands import PassingCommand


class Command(PassingCommand):
    """The command."""

    help = "Show how far each relay name has come, as `outbox-relay status` does."
    stands_for = "status"
