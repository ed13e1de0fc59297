"""manage.py outbox: every command of outbox-relay"""

from __future__ import annotations

from outbox.django.commands import PassingCommand


class Command(PassingCommand):
    """The command."""

    help = "Run any command of `outbox-relay`: manage.py outbox relays list."
    stands_for = None
